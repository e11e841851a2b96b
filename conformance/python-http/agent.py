"""Drives the vendor's HTTP client for Python on the harness's behalf; conformance/README.md describes the command line."""

import argparse
import json
import os
import sys
import threading
import time

# Whatever else prints must not mix with the events.
OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

from mq_http_sdk.mq_client import MQClient  # noqa: E402
from mq_http_sdk.mq_exception import MQExceptionBase  # noqa: E402
from mq_http_sdk.mq_producer import TopicMessage  # noqa: E402

SPECIAL = ("KEYS", "__SHARDINGKEY", "__STARTDELIVERTIME", "__TransCheckT")
WAIT_SECS = 10


def emit(event, **fields):
    OUT.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    OUT.flush()


def options():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["produce", "consume", "halves"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="GID_producers")
    parser.add_argument("--instance", default="")
    parser.add_argument("--access-key", default="key")
    parser.add_argument("--secret-key", default="secret")
    parser.add_argument("--filter", default="")
    for name in ("stdin", "orderly", "ack-twice"):
        parser.add_argument("--" + name, action="store_true")
    for name, default in (("count", 0), ("deadline-secs", 60), ("batch", 16), ("fail-first", 0)):
        parser.add_argument("--" + name, type=int, default=default)
    return parser.parse_args()


def draft(line):
    message = TopicMessage(bytes.fromhex(line["body_hex"]).decode(), line.get("tag", ""))
    for key, value in line.get("properties", {}).items():
        message.put_property(key, value)
    if line.get("keys"):
        message.set_message_key(" ".join(line["keys"]))
    if "message_group" in line:
        message.set_sharding_key(line["message_group"])
    if "deliver_at_ms" in line:
        message.set_start_deliver_time(line["deliver_at_ms"])
    if "transaction" in line:
        message.set_trans_check_immunity_time(10)
    return message


def received(message):
    properties = dict(message.properties)
    emit(
        "received", id=message.message_id, at_us=time.time_ns() // 1_000, body_hex=message.message_body.encode().hex(),
        keys=message.get_message_key().split(), tag=message.message_tag or None,
        message_group=message.get_sharding_key() or None, attempt=int(message.consumed_times),
        properties={key: value for key, value in properties.items() if key not in SPECIAL},
    )


class Agent:
    def __init__(self, given):
        self.given = given
        self.deadline = time.monotonic() + given.deadline_secs
        self.client = MQClient(given.endpoint, given.access_key, given.secret_key)
        self.ended = threading.Event()

    def end_with_standard_input(self):
        def watch():
            while os.read(0, 4096):
                pass
            self.ended.set()
        threading.Thread(target=watch, daemon=True).start()

    def over(self):
        return self.ended.is_set() or time.monotonic() >= self.deadline

    def trans_producer(self):
        return self.client.get_trans_producer(self.given.instance, self.given.topic, self.given.group)

    def produce(self):
        plain = self.client.get_producer(self.given.instance, self.given.topic)
        transactional = self.trans_producer()
        emit("ready")
        lines = (json.loads(line) for line in sys.stdin.buffer) if self.given.stdin else (
            {"body_hex": f"message {n}".encode().hex()} for n in range(self.given.count))
        for index, line in enumerate(lines):
            try:
                end = line.get("transaction")
                sent = (transactional if end else plain).publish_message(draft(line))
                if end == "commit":
                    transactional.commit(sent.receipt_handle)
                elif end == "rollback":
                    transactional.rollback(sent.receipt_handle)
                emit("sent", id=sent.message_id, index=index)
            except MQExceptionBase as e:
                emit("send_failed", index=index, message=f"{e.type}: {e.message}")

    def poll(self, consume):
        try:
            return consume(self.given.batch, WAIT_SECS)
        except MQExceptionBase as e:
            if e.type != "MessageNotExist":
                emit("receive_failed", message=f"{e.type}: {e.message}")
                self.ended.wait(0.2)
            return []

    def consume(self):
        self.end_with_standard_input()
        consumer = self.client.get_consumer(self.given.instance, self.given.topic, self.given.group, self.given.filter)
        consume = consumer.consume_message_orderly if self.given.orderly else consumer.consume_message
        emit("ready")
        done, deliveries = set(), {}
        while not self.over() and not (self.given.count and len(done) >= self.given.count):
            for message in self.poll(consume):
                received(message)
                number = deliveries[message.message_id] = deliveries.get(message.message_id, 0) + 1
                if number <= self.given.fail_first:
                    continue
                self.ack(consumer, message)
                done.add(message.message_id)

    def ack(self, consumer, message):
        handles = [message.receipt_handle]
        if self.given.ack_twice:
            # One handle that is none, beside a good one.
            handles.append(message.receipt_handle[:-4] + "AAAA")
        try:
            consumer.ack_message(handles)
            emit("acked", id=message.message_id)
        except MQExceptionBase as e:
            refused = [one["ReceiptHandle"] for one in getattr(e, "sub_errors", None) or []]
            told = "the other one" if refused == handles[1:] else repr(e)
            emit("ack_failed", id=message.message_id, message=f"{e.type}: {told}")

    def halves(self):
        self.end_with_standard_input()
        producer = self.trans_producer()
        emit("ready")
        while not self.over():
            for half in self.poll(producer.consume_half_message):
                emit("checked", id=half.message_id)
                outcome = half.properties.get("outcome")
                try:
                    if outcome == "commit":
                        producer.commit(half.receipt_handle)
                    elif outcome == "rollback":
                        producer.rollback(half.receipt_handle)
                except MQExceptionBase as e:
                    emit("end_failed", message=f"{e.type}: {e.message}")


def main():
    given = options()
    getattr(Agent(given), given.command)()
    emit("done")
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception as e:
        print(repr(e), file=sys.stderr)
        os._exit(1)
