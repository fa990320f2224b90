// Audio for the gateway: 16 kHz, 16 bit, one channel, as a WAV file.

const RATE = 16000;

/** Record the microphone. Returns a function that stops, and returns what was heard as a WAV file. */
export async function record() {
  if (!navigator.mediaDevices) {
    throw new Error('A browser allows the microphone only over https, or on localhost.');
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  const parts = [];
  try {
    await context.audioWorklet.addModule('/static/recorder.js');
    const node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => parts.push(data);
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
  } catch (error) {
    await close(stream, context);
    throw error;
  }
  return async () => {
    await close(stream, context);
    const samples = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    if (!samples.length) throw new Error('The microphone has sent nothing.');
    let end = 0;
    for (const part of parts) {
      samples.set(part, end);
      end += part.length;
    }
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: context.sampleRate });
    buffer.copyToChannel(samples, 0);
    return toWav(buffer);
  };
}

/** Return a file as the gateway takes it: a WAV file as it is, others if the browser can read them. */
export async function fromFile(file) {
  const bytes = await file.arrayBuffer();
  const head = new Uint8Array(bytes.slice(0, 4));
  if (String.fromCharCode(...head) === 'RIFF') return new Blob([bytes], { type: 'audio/wav' });
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  } catch {
    throw new Error(`This browser cannot read ${file.name} as audio.`);
  }
  return toWav(buffer);
}

async function close(stream, context) {
  stream.getTracks().forEach((track) => track.stop());
  await context.close();
}

async function toWav(buffer) {
  const length = Math.max(1, Math.ceil(buffer.duration * RATE));
  const context = new OfflineAudioContext(1, length, RATE);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  const samples = (await context.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (at, text) => [...text].forEach((c, n) => view.setUint8(at + n, c.charCodeAt(0)));
  write(0, 'RIFF');
  view.setUint32(4, 36 + 2 * samples.length, true);
  write(8, 'WAVEfmt ');
  view.setUint32(16, 16, true); // the size of the description: PCM, one channel, ...
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, 'data');
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => {
    view.setInt16(44 + 2 * n, Math.round(Math.max(-1, Math.min(1, value)) * 32767), true);
  });
  return new Blob([view], { type: 'audio/wav' });
}
