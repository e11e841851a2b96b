"""Drives the vendor's HTTP client for Python on the harness's behalf; conformance/README.md describes the command line."""

import time

# First: it keeps what the client prints away from the events.
from common import RETRY_SECS, Driver, body, emit, options, run

from mq_http_sdk.mq_client import MQClient
from mq_http_sdk.mq_exception import MQExceptionBase
from mq_http_sdk.mq_producer import TopicMessage

SPECIAL = ("KEYS", "__SHARDINGKEY", "__STARTDELIVERTIME", "__TransCheckT")
WAIT_SECS = 10


def draft(line):
    message = TopicMessage(body(line).decode(), line.get("tag", ""))
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


class Agent(Driver):
    def __init__(self, given):
        super().__init__(given)
        self.client = MQClient(given.endpoint, given.access_key or "key", given.secret_key or "secret")

    def shutdown(self):
        """There is nothing to shut down: each call of this client stands alone."""

    def over(self):
        return self.ended.is_set() or self.late()

    def trans_producer(self):
        return self.client.get_trans_producer(self.given.instance, self.given.topic, self.given.group or "GID_producers")

    def produce(self):
        plain = self.client.get_producer(self.given.instance, self.given.topic)
        transactional = self.trans_producer()
        emit("ready")
        for index, line in enumerate(self.lines()):
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
        return self

    def poll(self, consume):
        try:
            return consume(self.given.batch, WAIT_SECS)
        except MQExceptionBase as e:
            if e.type != "MessageNotExist":
                emit("receive_failed", message=f"{e.type}: {e.message}")
                self.ended.wait(RETRY_SECS)
            return []

    def consume(self):
        self.end_with_standard_input()
        tags = "" if self.given.filter == "*" else self.given.filter
        consumer = self.client.get_consumer(self.given.instance, self.given.topic, self.given.group, tags)
        consume = consumer.consume_message_orderly if self.given.orderly else consumer.consume_message
        emit("ready")
        while not self.over() and not self.finished():
            for message in self.poll(consume):
                received(message)
                if not self.fails_now(message.message_id):
                    self.ack(consumer, message)
                    self.succeeded(message.message_id)
        return self

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
        return self


if __name__ == "__main__":
    run(Agent(options(["produce", "consume", "halves"])))
