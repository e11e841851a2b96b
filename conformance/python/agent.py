"""Drives the published Python client on the harness's behalf; conformance/README.md describes the command line."""

import argparse
import json
import os
import sys
import threading
import time

# Whatever else prints must not mix with the events.
OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

from rocketmq import (  # noqa: E402
    ClientConfiguration, ConsumeResult, Credentials, FilterExpression, LitePushConsumer, LiteSimpleConsumer, Message,
    MessageListener, Producer, PushConsumer, SimpleConsumer, TransactionChecker, TransactionResolution,
)
from rocketmq.grpc_protocol import FilterType  # noqa: E402

# Seconds between two tries of what fails while the broker is away: that it is back is no event this client reports.
RETRY_SECS = 0.2
LOCK = threading.Lock()


def emit(event, **fields):
    with LOCK:
        OUT.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        OUT.flush()


def received(message, **fields):
    emit(
        "received", id=message.message_id, topic=message.topic,
        at_us=time.time_ns() // 1_000, body_hex=message.body.hex(),
        keys=list(message.keys or []), tag=message.tag, properties=dict(message.properties or {}),
        message_group=message.message_group, lite_topic=message.lite_topic, attempt=message.delivery_attempt, **fields,
    )


def options():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["produce", "simple", "push", "lite", "lite-simple"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--filter", default="*")
    parser.add_argument("--lite-topics", default="")
    for name in ("tls", "stdin", "transactional", "fail-all"):
        parser.add_argument("--" + name, action="store_true")
    for name, default in (("count", 0), ("deadline-secs", 60), ("invisible-secs", 30), ("change-invisible", 0),
                          ("batch", 16), ("cache", 64), ("fail-first", 0), ("fail-every", 0)):
        parser.add_argument("--" + name, type=int, default=default)
    return parser.parse_args()


class Checker(TransactionChecker):
    """What became of a transaction whose end the broker never heard: its message says so itself."""

    def check(self, message):
        emit("checked", id=message.message_id)
        return {"commit": TransactionResolution.COMMIT, "rollback": TransactionResolution.ROLLBACK}.get(
            (message.properties or {}).get("outcome"), TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED)


class Agent:
    def __init__(self, given):
        self.given = given
        self.deadline = time.monotonic() + given.deadline_secs
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.deliveries = {}
        self.total = 0
        self.done = set()

    def late(self):
        return time.monotonic() >= self.deadline

    def again(self):
        """Whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait."""
        return not self.late() and not self.ended.wait(RETRY_SECS)

    def configuration(self):
        return ClientConfiguration(self.given.endpoint, Credentials())

    def subscription(self):
        given = self.given.filter
        sql = given.startswith("sql:")
        return {self.given.topic: FilterExpression(given[4:], FilterType.SQL) if sql else FilterExpression(given)}

    def start(self, create):
        """Starting fails while the broker is away or a topic is not known yet: try until the deadline."""
        while True:
            try:
                client = create()
                client.startup()
                emit("ready")
                return client
            except Exception as e:  # the client raises many kinds
                emit("start_failed", message=repr(e))
                if not self.again():
                    raise

    def end_with_standard_input(self):
        def watch():
            while os.read(0, 4096):
                pass
            self.ended.set()
        threading.Thread(target=watch, daemon=True).start()

    def delivered(self, message_id):
        with self.lock:
            self.deliveries[message_id] = self.deliveries.get(message_id, 0) + 1
            self.total += 1
            return self.deliveries[message_id], self.total

    def fails(self, delivery):
        return self.given.fail_all or delivery <= self.given.fail_first

    def finished(self):
        return self.given.count > 0 and len(self.done) >= self.given.count

    def produce(self):
        checker = Checker() if self.given.transactional else None
        producer = self.start(lambda: Producer(
            self.configuration(), [self.given.topic], checker, tls_enable=self.given.tls))
        if self.given.stdin:
            lines = (json.loads(line) for line in sys.stdin.buffer)
        else:
            lines = ({"body": f"message {n}"} for n in range(self.given.count))
        for index, line in enumerate(lines):
            self.send(producer, index, line)
        return producer

    def message(self, line):
        message = Message()
        message.topic = self.given.topic
        message.body = bytes.fromhex(line["body_hex"]) if "body_hex" in line else line["body"].encode()
        if "tag" in line:
            message.tag = line["tag"]
        if "message_group" in line:
            message.message_group = line["message_group"]
        if "deliver_at_ms" in line:
            message.delivery_timestamp = line["deliver_at_ms"] // 1000  # this client takes seconds
        if "lite_topic" in line:
            message.lite_topic = line["lite_topic"]
        if "priority" in line:
            message.priority = line["priority"]
        if "keys" in line:
            # The setter takes variable arguments, which an assignment cannot spread.
            type(message).keys.fset(message, *line["keys"])
        for key, value in line.get("properties", {}).items():
            message.add_property(key, value)
        return message

    def send(self, producer, index, line):
        while True:
            try:
                if "transaction" in line:
                    transaction = producer.begin_transaction()
                    receipt = producer.send(self.message(line), transaction)
                    self.end(transaction, line["transaction"])
                else:
                    receipt = producer.send(self.message(line))
                emit("sent", id=receipt.message_id, index=index)
                if line.get("recall"):
                    self.recall(producer, receipt.recall_handle)
                return
            except Exception as e:
                emit("send_failed", index=index, message=repr(e))
                if not self.again():
                    raise

    def end(self, transaction, end):
        try:
            if end == "commit":
                transaction.commit()
            elif end == "rollback":
                transaction.rollback()
        except Exception as e:
            emit("end_failed", message=repr(e))  # the check will find out

    def recall(self, producer, handle):
        try:
            emit("recalled", id=producer.recall_message(self.given.topic, handle))
        except Exception as e:
            emit("recall_failed", message=repr(e))

    def simple(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: SimpleConsumer(
            self.configuration(), self.given.group, self.subscription(), await_duration=10, tls_enable=self.given.tls))
        return self.receive(consumer)

    def lite_simple(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: LiteSimpleConsumer(
            self.given.topic, self.configuration(), self.given.group, await_duration=10, tls_enable=self.given.tls))
        self.subscribe_lite(consumer)
        return self.receive(consumer)

    def subscribe_lite(self, consumer):
        for name in self.given.lite_topics.split(","):
            while True:
                try:
                    consumer.subscribe_lite(name)
                    break
                except Exception as e:  # its quota is 0 until the broker has told
                    emit("receive_failed", message=repr(e))
                    if not self.again():
                        raise
        emit("subscribed")

    def receive(self, consumer):
        while not self.late() and not self.ended.is_set() and not self.finished():
            try:
                messages = consumer.receive(self.given.batch, self.given.invisible_secs)
            except Exception as e:
                emit("receive_failed", message=repr(e))
                if not self.again():
                    break
                continue
            for message in messages or []:
                self.settle(consumer, message)
        return consumer

    def settle(self, consumer, message):
        received(message)
        delivery, _ = self.delivered(message.message_id)
        try:
            if delivery == 1 and self.given.change_invisible > 0:
                consumer.change_invisible_duration(message, self.given.change_invisible)
                emit("changed", id=message.message_id)
            elif not self.fails(delivery):
                consumer.ack(message)
                self.done.add(message.message_id)
                emit("acked", id=message.message_id)
        except Exception as e:
            emit("ack_failed", id=message.message_id, message=repr(e))

    def listener(self):
        agent = self

        class Listener(MessageListener):
            def consume(self, message):
                delivery, number = agent.delivered(message.message_id)
                every = agent.given.fail_every
                if agent.fails(delivery) or (every > 0 and number % every == 0):
                    received(message, result="failure")
                    return ConsumeResult.FAILURE
                received(message, result="success")
                with agent.lock:
                    agent.done.add(message.message_id)
                    if agent.finished():
                        agent.ended.set()
                return ConsumeResult.SUCCESS

        return Listener()

    def push(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: PushConsumer(
            self.configuration(), self.given.group, self.listener(), self.subscription(),
            max_cache_message_count=self.given.cache, consumption_thread_count=4, tls_enable=self.given.tls))
        self.ended.wait(max(0.0, self.deadline - time.monotonic()))
        return consumer

    def lite(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: LitePushConsumer(
            self.configuration(), self.given.group, self.given.topic, self.listener(),
            max_cache_message_count=self.given.cache, consumption_thread_count=4, tls_enable=self.given.tls))
        self.subscribe_lite(consumer)
        self.ended.wait(max(0.0, self.deadline - time.monotonic()))
        return consumer


def main():
    given = options()
    client = getattr(Agent(given), given.command.replace("-", "_"))()
    closer = threading.Thread(target=client.shutdown, daemon=True)
    closer.start()
    closer.join(3)  # a broker that is away must not hold the agent
    emit("done")
    # The client's own threads must not keep a finished agent alive.
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception as e:
        print(repr(e), file=sys.stderr)
        os._exit(1)
