'use strict';
// Drives the published Node.js client on the harness's behalf; conformance/README.md describes the command line.

const { parseArgs } = require('node:util');
const readline = require('node:readline');
const { setTimeout } = require('node:timers/promises');
const {
  ConsumeResult, FilterExpression, LitePushConsumerImpl, Producer, PushConsumer, SimpleConsumer,
} = require('rocketmq-client-nodejs');

// Enumerations of the protocol, which the client does not export.
const SQL = 2;
const OUTCOMES = { commit: 1, rollback: 2 };

const text = (value = '') => ({ type: 'string', default: value });
const { positionals: [ command ], values: given } = parseArgs({
  allowPositionals: true,
  options: {
    endpoint: text(), topic: text(), group: text(), filter: text('*'), 'lite-topics': text(),
    tls: { type: 'boolean' }, stdin: { type: 'boolean' }, transactional: { type: 'boolean' }, 'fail-all': { type: 'boolean' },
    count: text('0'), 'deadline-secs': text('60'), 'invisible-secs': text('30'), 'change-invisible': text('0'),
    batch: text('16'), cache: text('64'), 'fail-first': text('0'), 'fail-every': text('0'),
  },
});
const number = name => Number(given[name]);
const deadline = Date.now() + number('deadline-secs') * 1000;
const late = () => Date.now() >= deadline;
// Between two tries of what fails while the broker is away: that it is back is no event this client reports.
const RETRY_MS = 200;
const LEAVE_MS = 3000;
const emit = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');

function filter() {
  const expression = given.filter;
  return expression.startsWith('sql:') ? new FilterExpression(expression.slice(4), SQL) : new FilterExpression(expression);
}

const log = (...args) => console.error(...args);
const base = {
  endpoints: given.endpoint, namespace: '', sslEnabled: Boolean(given.tls),
  logger: { info() {}, debug() {}, warn: log, error: log, close() {} },
};

// Standard input has ended (where only its end matters), or all has come that was waited for.
const ended = new AbortController();
const end = () => ended.abort();
function endWithStandardInput() {
  process.stdin.on('data', () => {});
  process.stdin.on('end', end);
}

// True after so long, false as soon as the end has come.
const pause = ms => setTimeout(ms, true, { signal: ended.signal }).catch(() => false);
// Whether to try again, once it is time to.
const again = async () => !late() && await pause(RETRY_MS);

// Starting fails while the broker is away or a topic is not known yet: try until the deadline.
async function start(create) {
  for (;;) {
    const client = create();
    try {
      await client.startup();
      emit('ready');
      return client;
    } catch (e) {
      emit('start_failed', { message: String(e) });
      if (!await again()) throw e;
    }
  }
}

function message(line) {
  const made = {
    topic: given.topic,
    body: line.body_hex === undefined ? Buffer.from(line.body) : Buffer.from(line.body_hex, 'hex'),
  };
  if (line.tag !== undefined) made.tag = line.tag;
  if (line.message_group !== undefined) made.messageGroup = line.message_group;
  if (line.deliver_at_ms !== undefined) made.deliveryTimestamp = new Date(line.deliver_at_ms);
  if (line.lite_topic !== undefined) made.liteTopic = line.lite_topic;
  if (line.priority !== undefined) made.priority = line.priority;
  if (line.keys !== undefined) made.keys = line.keys;
  if (line.properties !== undefined) made.properties = new Map(Object.entries(line.properties));
  return made;
}

async function send(producer, index, line) {
  for (;;) {
    try {
      const transaction = line.transaction && producer.beginTransaction();
      const receipt = await producer.send(message(line), transaction);
      if (transaction) await endTransaction(transaction, line.transaction);
      emit('sent', { id: receipt.messageId, index });
      if (line.recall) await recall(producer, receipt.recallHandle);
      return;
    } catch (e) {
      emit('send_failed', { index, message: String(e) });
      if (!await again()) throw e;
    }
  }
}

async function endTransaction(transaction, end) {
  try {
    if (end === 'commit') await transaction.commit();
    if (end === 'rollback') await transaction.rollback();
  } catch (e) {
    emit('end_failed', { message: String(e) }); // the check will find out
  }
}

// What became of a transaction whose end the broker never heard: its message says so itself.
const checker = {
  async check(view) {
    emit('checked', { id: view.messageId });
    return OUTCOMES[view.properties.get('outcome')] ?? 0;
  },
};

async function recall(producer, handle) {
  try {
    const { messageId } = await producer.recallMessage(given.topic, handle);
    emit('recalled', { id: messageId });
  } catch (e) {
    emit('recall_failed', { message: String(e) });
  }
}

async function produce() {
  const transactional = given.transactional ? { checker } : {};
  const producer = await start(() => new Producer({ ...base, ...transactional, topic: given.topic }));
  let index = 0;
  if (given.stdin) {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      await send(producer, index++, JSON.parse(line));
    }
  } else {
    while (index < number('count')) await send(producer, index, { body: `message ${index++}` });
  }
  return producer;
}

const deliveries = new Map();
const done = new Set();
let total = 0;

function delivered(id) {
  const delivery = (deliveries.get(id) ?? 0) + 1;
  deliveries.set(id, delivery);
  total++;
  return delivery;
}
const fails = delivery => Boolean(given['fail-all']) || delivery <= number('fail-first');
const finished = () => number('count') > 0 && done.size >= number('count');

function received(view, fields) {
  emit('received', {
    id: view.messageId, topic: view.topic, at_us: Date.now() * 1000, body_hex: view.body.toString('hex'),
    message_group: view.messageGroup, lite_topic: view.liteTopic, keys: view.keys,
    tag: view.tag || null, // the client shows a missing tag as an empty one
    properties: Object.fromEntries(view.properties),
    attempt: view.deliveryAttempt, offset: view.offset, ...fields,
  });
}

async function settle(consumer, view) {
  received(view);
  const id = view.messageId;
  const delivery = delivered(id);
  try {
    if (delivery === 1 && number('change-invisible') > 0) {
      await consumer.changeInvisibleDuration(view, number('change-invisible') * 1000);
      emit('changed', { id });
    } else if (!fails(delivery)) {
      await consumer.ack(view);
      done.add(id);
      emit('acked', { id });
    }
  } catch (e) {
    emit('ack_failed', { id, message: String(e) });
  }
}

async function simple() {
  endWithStandardInput();
  const consumer = await start(() => new SimpleConsumer({
    ...base, consumerGroup: given.group, awaitDuration: 10000,
    subscriptions: new Map([[ given.topic, filter() ]]),
  }));
  while (!late() && !ended.signal.aborted && !finished()) {
    let views;
    try {
      views = await consumer.receive(number('batch'), number('invisible-secs') * 1000);
    } catch (e) {
      emit('receive_failed', { message: String(e) });
      if (!await again()) break;
      continue;
    }
    for (const view of views) await settle(consumer, view);
  }
  return consumer;
}

async function consume(view) {
  const delivery = delivered(view.messageId);
  const every = number('fail-every');
  const failure = fails(delivery) || (every > 0 && total % every === 0);
  received(view, { result: failure ? 'failure' : 'success' });
  if (failure) return ConsumeResult.FAILURE;
  done.add(view.messageId);
  if (finished()) end();
  return ConsumeResult.SUCCESS;
}

async function push() {
  endWithStandardInput();
  const consumer = await start(() => new PushConsumer({
    ...base, consumerGroup: given.group, maxCacheMessageCount: number('cache'), longPollingTimeout: 10000,
    subscriptions: new Map([[ given.topic, filter() ]]), messageListener: { consume },
  }));
  await pause(Math.max(0, deadline - Date.now()));
  return consumer;
}

// A lite push consumer of the lite topics named, below the topic.
async function lite() {
  endWithStandardInput();
  const consumer = await start(() => new LitePushConsumerImpl({
    ...base, consumerGroup: given.group, bindTopic: given.topic, maxCacheMessageCount: number('cache'),
    messageListener: { consume },
  }));
  for (const name of given['lite-topics'].split(',')) await subscribeLite(consumer, name);
  emit('subscribed');
  await pause(Math.max(0, deadline - Date.now()));
  return consumer;
}

async function subscribeLite(consumer, name) {
  for (;;) {
    try {
      await consumer.subscribeLite(name);
      return;
    } catch (e) {
      emit('receive_failed', { message: String(e) });
      if (!await again()) throw e;
    }
  }
}

async function main() {
  const run = { produce, simple, push, lite }[command];
  if (!run) throw new Error(`unknown command ${command}`);
  const client = await run();
  await Promise.race([ client.shutdown(), setTimeout(LEAVE_MS) ]); // a broker that is away must not hold the agent
  emit('done');
}

// A pipe takes what is written to it in the background; leaving at once would cut off the last events.
const leave = code => process.stdout.end(() => process.exit(code));

main().then(() => leave(0), e => {
  console.error(e);
  leave(1);
});
