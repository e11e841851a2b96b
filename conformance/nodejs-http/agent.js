// Drives the vendor's HTTP client for Node.js on the harness's behalf; conformance/README.md describes the command line.
'use strict';

const readline = require('node:readline');
const { parseArgs } = require('node:util');
const { MQClient, MessageProperties } = require('@aliyunmq/mq-http-sdk');

const WAIT_SECS = 10;

function emit(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
}

const text = (value) => ({ type: 'string', default: value });
const { values: given, positionals: [command] } = parseArgs({
  allowPositionals: true,
  options: {
    endpoint: text(''), topic: text(''), group: text('GID_producers'), instance: text(''), 'access-key': text('key'),
    'secret-key': text('secret'), filter: text(''), count: text('0'), 'deadline-secs': text('60'), batch: text('16'),
    'fail-first': text('0'),
    stdin: { type: 'boolean', default: false }, orderly: { type: 'boolean', default: false },
    'ack-twice': { type: 'boolean', default: false },
  },
});
const client = new MQClient(given.endpoint, given['access-key'], given['secret-key']);
const deadline = Date.now() + Number(given['deadline-secs']) * 1000;
let ended = false;
const over = () => ended || Date.now() >= deadline;
const transProducer = () => client.getTransProducer(given.instance, given.topic, given.group);

function endWithStandardInput() {
  process.stdin.on('end', () => { ended = true; }).resume();
}

function properties(line) {
  const all = new MessageProperties();
  Object.entries(line.properties || {}).forEach(([key, value]) => all.putProperty(key, value));
  if (line.keys && line.keys.length) all.messageKey(line.keys.join(' '));
  if (line.message_group) all.shardingKey(line.message_group);
  if (line.deliver_at_ms) all.startDeliverTime(line.deliver_at_ms);
  if (line.transaction) all.transCheckImmunityTime(10);
  return all;
}

async function* lines() {
  if (given.stdin) {
    for await (const line of readline.createInterface({ input: process.stdin })) yield JSON.parse(line);
  } else {
    for (let n = 0; n < Number(given.count); n += 1) yield { body_hex: Buffer.from(`message ${n}`).toString('hex') };
  }
}

async function produce() {
  const plain = client.getProducer(given.instance, given.topic);
  const transactional = transProducer();
  emit('ready');
  let index = 0;
  for await (const line of lines()) {
    try {
      const producer = line.transaction ? transactional : plain;
      const body = Buffer.from(line.body_hex, 'hex').toString();
      const sent = await producer.publishMessage(body, line.tag || '', properties(line));
      if (line.transaction === 'commit') await ending(transactional.commit(sent.body.ReceiptHandle));
      if (line.transaction === 'rollback') await ending(transactional.rollback(sent.body.ReceiptHandle));
      emit('sent', { id: sent.body.MessageId, index });
    } catch (e) {
      emit('send_failed', { index, message: `${e.Code}: ${e.message}` });
    }
    index += 1;
  }
}

// This client does not throw where handles are refused.
async function ending(promise) {
  const answer = await promise;
  if (answer.code !== 204) throw new Error(JSON.stringify(answer.body));
}

async function poll(consume) {
  try {
    return (await consume(Number(given.batch), WAIT_SECS)).body;
  } catch (e) {
    if (e.Code !== 'MessageNotExist') {
      emit('receive_failed', { message: `${e.Code}: ${e.message}` });
      await new Promise((wake) => { setTimeout(wake, 200); });
    }
    return [];
  }
}

function received(message) {
  emit('received', {
    id: message.MessageId, at_us: Date.now() * 1000, body_hex: Buffer.from(message.MessageBody).toString('hex'),
    keys: (message.MessageKey || '').split(' ').filter((key) => key), tag: message.MessageTag || null,
    message_group: message.ShardingKey || null, attempt: Number(message.ConsumedTimes),
    properties: message.Properties || {},
  });
}

async function consume() {
  endWithStandardInput();
  const consumer = client.getConsumer(given.instance, given.topic, given.group, given.filter);
  const call = given.orderly ? consumer.consumeMessageOrderly : consumer.consumeMessage;
  emit('ready');
  const done = new Set();
  const deliveries = new Map();
  while (!over() && !(Number(given.count) && done.size >= Number(given.count))) {
    for (const message of await poll(call.bind(consumer))) {
      received(message);
      const number = (deliveries.get(message.MessageId) || 0) + 1;
      deliveries.set(message.MessageId, number);
      if (number <= Number(given['fail-first'])) continue;
      await ack(consumer, message);
      done.add(message.MessageId);
    }
  }
}

async function ack(consumer, message) {
  const handles = [message.ReceiptHandle];
  // One handle that is none, beside a good one.
  if (given['ack-twice']) handles.push(`${message.ReceiptHandle.slice(0, -4)}AAAA`);
  const id = message.MessageId;
  const answer = await consumer.ackMessage(handles);
  if (answer.code === 204) return emit('acked', { id });
  const refused = answer.body.map((one) => one.ReceiptHandle);
  const told = JSON.stringify(refused) === JSON.stringify(handles.slice(1)) ? 'the other one' : JSON.stringify(answer.body);
  return emit('ack_failed', { id, message: `${answer.body[0].ErrorCode}: ${told}` });
}

async function halves() {
  endWithStandardInput();
  const producer = transProducer();
  emit('ready');
  while (!over()) {
    for (const half of await poll(producer.consumeHalfMessage.bind(producer))) {
      emit('checked', { id: half.MessageId });
      const outcome = (half.Properties || {}).outcome;
      try {
        if (outcome === 'commit') await ending(producer.commit(half.ReceiptHandle));
        if (outcome === 'rollback') await ending(producer.rollback(half.ReceiptHandle));
      } catch (e) {
        emit('end_failed', { message: String(e) });
      }
    }
  }
}

({ produce, consume, halves })[command]().then(() => {
  process.stdout.write(JSON.stringify({ event: 'done' }) + '\n', () => process.exit(0));
}, (e) => {
  console.error(e);
  process.exit(1);
});
