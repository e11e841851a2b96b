"""Drives the published Python client on the harness's behalf; conformance/README.md describes the command line."""

import time

# First: it keeps what the client prints away from the events.
from common import Driver, body, emit, options, run

from rocketmq import (
    ClientConfiguration, ConsumeResult, Credentials, FilterExpression, LitePushConsumer, LiteSimpleConsumer, Message,
    MessageListener, Producer, PushConsumer, SimpleConsumer, TransactionChecker, TransactionResolution,
)
from rocketmq.grpc_protocol import FilterType


def received(message, **fields):
    emit(
        "received", id=message.message_id, topic=message.topic,
        at_us=time.time_ns() // 1_000, body_hex=message.body.hex(),
        keys=list(message.keys or []), tag=message.tag, properties=dict(message.properties or {}),
        message_group=message.message_group, lite_topic=message.lite_topic, attempt=message.delivery_attempt, **fields,
    )


class Checker(TransactionChecker):
    """What became of a transaction whose end the broker never heard: its message says so itself."""

    def check(self, message):
        emit("checked", id=message.message_id)
        return {"commit": TransactionResolution.COMMIT, "rollback": TransactionResolution.ROLLBACK}.get(
            (message.properties or {}).get("outcome"), TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED)


class Agent(Driver):
    def configuration(self):
        return ClientConfiguration(self.given.endpoint, Credentials(self.given.access_key, self.given.secret_key), self.given.instance)

    def subscription(self):
        given = self.given.filter
        sql = given.startswith("sql:")
        return {self.given.topic: FilterExpression(given[4:], FilterType.SQL) if sql else FilterExpression(given)}

    def produce(self):
        checker = Checker() if self.given.transactional else None
        producer = self.start(lambda: Producer(
            self.configuration(), [self.given.topic], checker, tls_enable=self.given.tls))
        for index, line in enumerate(self.lines()):
            self.send(producer, index, line)
        return producer

    def message(self, line):
        message = Message()
        message.topic = self.given.topic
        message.body = body(line)
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
                if agent.fails_now(message.message_id):
                    received(message, result="failure")
                    return ConsumeResult.FAILURE
                received(message, result="success")
                agent.succeeded(message.message_id)
                return ConsumeResult.SUCCESS

        return Listener()

    def push(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: PushConsumer(
            self.configuration(), self.given.group, self.listener(), self.subscription(),
            max_cache_message_count=self.given.cache, consumption_thread_count=4, tls_enable=self.given.tls))
        self.await_end()
        return consumer

    def lite(self):
        self.end_with_standard_input()
        consumer = self.start(lambda: LitePushConsumer(
            self.configuration(), self.given.group, self.given.topic, self.listener(),
            max_cache_message_count=self.given.cache, consumption_thread_count=4, tls_enable=self.given.tls))
        self.subscribe_lite(consumer)
        self.await_end()
        return consumer


if __name__ == "__main__":
    run(Agent(options(["produce", "simple", "push", "lite", "lite-simple"])))
