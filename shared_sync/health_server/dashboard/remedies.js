// What to do about each reason that a worker's health gives; docs/operation.md says more.

const REMEDIES = [
  ["the worker is broken", "It ends by itself with exit status 70. If that happens on the same machine again, look at its GPU (nvidia-smi, dmesg)."],
  ["another process has taken this consumer's name", "Leave consumer_id out, so that each process gets a unique one."],
  ["threads of the pool ended by themselves", "Restart the worker, and report its log."],
  ["is stalled", "Look at where the thread hangs: a logger or metrics object that blocks, such as a pipe that nobody reads."],
  ["its limit is", "Restart the worker, and find out what the job waits for: the traceback is in the log. With isolation=\"process\" the job alone is ended."],
  ["its budget is", "If such jobs are normal, raise job_deadline_seconds, or set late_after_p99s to None."],
  ["has not answered for", "See whether Redis runs and can be reached. The worker goes on by itself."],
  ["does not answer", "See whether Redis runs and can be reached. The worker goes on by itself."],
  ["Redis refuses what it is asked", "Check the password and the rights of this Redis user; the code in the reason says which."],
  ["Redis is full", "Read and delete results, purge dead letters, or raise maxmemory."],
  ["does not exist", "The worker creates the group again if its user may. Find out who removed it: messages that were pending may be lost."],
  ["no reader is free", "Look at the running jobs: they are late, or hang."],
  ["has no processor", "Look at the log for why the model cannot be loaded: often another process has the memory of the GPU."],
  ["circuit breaker", "Repair what is behind it. Messages wait in the stream meanwhile, and are charged with nothing."],
  ["failures in a row here", "If the other workers are well, restart this one. If none is, look at what they have in common: a service, a file, the last deploy."],
  ["outcomes are failures or", "List the dead letters for their causes, and look at the errors by type."],
  ["became dead letters", "Pass what the reason names, and replay the dead letters."],
  ["not started", "The program has made the consumer, and must call start_consuming() or start()."],
  ["started in another process", "Make and start a consumer in each process, after the fork."],
  ["starting", "Wait. If it never ends, check the address of Redis, and consumer_id."],
  ["draining", "Wait: running jobs have drain_seconds."],
];

/** What to do about a reason, or an empty text: the reasons of a group say that themselves. */
export const remedyFor = (reason) => REMEDIES.find(([part]) => String(reason).includes(part))?.[1] ?? "";
