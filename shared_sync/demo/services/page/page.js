// The page: sends recordings to the gateway, and shows what becomes of them.

import { fromFile, record } from './audio.js';

const LONGEST_SECONDS = 60;
const STATES = {
  waiting: 'waits for a worker',
  running: 'is being prepared',
  parked: 'failed, and is tried again soon',
  transcribing: 'is being recognized',
  translating: 'is being translated',
  ended: 'is being prepared',
  unknown: 'is unknown to the service',
  done: 'done',
  dead: 'failed',
  expired: 'was not started in time',
  cancelled: 'cancelled',
};
const FINAL = new Set(['done', 'dead', 'expired', 'cancelled']);
const CLIENT = crypto.getRandomValues(new Uint32Array(4)).join('-');

const find = (id) => document.getElementById(id);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Ask the gateway, again and again while it is not available. */
async function ask(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: { ...options.headers, 'X-Client-Id': CLIENT } });
    } catch {
      await pause(2);
      continue;
    }
    if (answer.status === 503) {
      await pause(Number(answer.headers.get('Retry-After')) || 2);
      continue;
    }
    const isJson = answer.headers.get('Content-Type') === 'application/json';
    const body = isJson ? await answer.json() : {};
    if (!answer.ok) throw new Error(body.error || `The service answers ${answer.status}.`);
    return body;
  }
}

async function send(name, wav) {
  const card = addCard(name);
  try {
    const { job } = await ask('/api/jobs', {
      method: 'POST',
      body: wav,
      headers: { 'Content-Type': 'audio/wav' },
    });
    card.querySelector('.cancel').onclick = () => cancel(job, card);
    await follow(job, card);
  } catch (error) {
    card.querySelector('.state').textContent = 'failed';
    card.querySelector('.reason').textContent = error.message;
    end(card);
  }
}

async function cancel(job, card) {
  try {
    await ask(`/api/jobs/${job}`, { method: 'DELETE' });
  } catch (error) {
    card.querySelector('.reason').textContent = error.message;
  }
}

async function follow(job, card) {
  for (let version = ''; ; ) {
    const asked = performance.now();
    const known = await ask(`/api/jobs/${job}?after=${version}`);
    show(known, card);
    if (FINAL.has(known.state)) return end(card);
    // The gateway answers at once if too many pages wait.
    if (known.version === version && performance.now() - asked < 1000) await pause(1);
    version = known.version;
  }
}

function addCard(name) {
  const card = find('job').content.cloneNode(true).firstElementChild;
  card.querySelector('.name').textContent = name;
  card.querySelector('.state').textContent = 'is being sent';
  find('none').hidden = true;
  find('jobs').prepend(card);
  return card;
}

function show(known, card) {
  setText(card, '.state', STATES[known.state] || known.state);
  setText(card, '.english', known.english);
  card.querySelector('.english').classList.toggle('partial', !known.english_is_final);
  setText(card, '.spanish', known.spanish);
  setText(card, '.reason', known.state === 'done' ? '' : known.reason);
  if (known.state === 'done' && !known.english) setText(card, '.reason', 'No words were recognized.');
  if (known.progress !== null) card.querySelector('progress').value = known.progress;
}

/** Change a text only if it differs, so that a screen reader reads it once. */
function setText(card, css, text) {
  const node = card.querySelector(css);
  if (node.textContent !== text) node.textContent = text;
}

function end(card) {
  card.querySelector('.cancel').hidden = true;
  card.querySelector('progress').hidden = true;
}

let stop = null;
let clock = 0;

async function toggle() {
  const button = find('record');
  button.disabled = true;
  find('problem').textContent = '';
  try {
    if (stop === null) {
      stop = await record();
      const began = performance.now();
      clock = setInterval(() => tick(began), 200);
    } else {
      const finish = stop;
      stop = null;
      clearInterval(clock);
      find('recorded').textContent = '';
      send(`Recording of ${new Date().toLocaleTimeString('en-GB')}`, await finish());
    }
  } catch (error) {
    find('problem').textContent =
      error.name === 'NotAllowedError' ? 'The browser was not allowed to use the microphone.'
      : error.name === 'NotFoundError' ? 'There is no microphone.'
      : error.message;
  }
  button.disabled = false;
  button.textContent = stop === null ? 'Record' : 'Stop and send';
  button.setAttribute('aria-pressed', String(stop !== null));
}

function tick(began) {
  const seconds = Math.floor((performance.now() - began) / 1000);
  find('recorded').textContent = `${seconds} s`;
  if (seconds >= LONGEST_SECONDS - 1) toggle();
}

async function choose() {
  const [file] = find('file').files;
  find('file').value = ''; // so that the same file can be chosen again
  if (!file) return;
  find('problem').textContent = '';
  try {
    send(file.name, await fromFile(file));
  } catch (error) {
    find('problem').textContent = error.message;
  }
}

find('record').onclick = toggle;
find('file').onchange = choose;
