"""Drives the published Python client of the remoting protocol, which wraps the C++ one; conformance/README.md describes the command line."""

import time

# First: it keeps what the client prints away from the events.
from common import Driver, body, emit, options, run

from rocketmq.client import Message, Producer, PushConsumer
from rocketmq.ffi import MessageModel


class Failed(Exception):
    """What a listener raises to have a message again."""


class Agent(Driver):
    def startup(self, client):
        client.set_namesrv_addr(self.given.endpoint)
        client.start()

    def produce(self):
        producer = self.start(lambda: Producer("producers"))
        for index, line in enumerate(self.lines()):
            self.send(producer, index, self.message(line))
        return producer

    def message(self, line):
        message = Message(self.given.topic)
        message.set_body(body(line))
        if "tag" in line:
            message.set_tags(line["tag"])
        if line.get("keys"):
            message.set_keys(" ".join(line["keys"]))
        for key, value in line.get("properties", {}).items():
            message.set_property(key, value)
        return message

    def send(self, producer, index, message):
        while True:
            try:
                emit("sent", id=producer.send_sync(message).msg_id, index=index)
                return
            except Exception as e:
                emit("send_failed", index=index, message=repr(e))
                if not self.again():
                    raise

    def consume(self, message):
        failure = self.fails_now(message.id)
        text = lambda value: value.decode() if value else None  # noqa: E731
        colour = text(message.get_property("colour"))
        emit(
            "received", id=message.id, topic=message.topic, at_us=time.time_ns() // 1_000, body_hex=message.body.hex(),
            keys=(text(message.keys) or "").split(), tag=text(message.tags),
            # This client shows no list of properties, only one that is asked for by name.
            properties={} if colour is None else {"colour": colour},
            attempt=message.reconsume_times + 1, offset=message.queue_offset, queue=message.queue_id,
            result="failure" if failure else "success",
        )
        if failure:
            raise Failed()
        self.succeeded(message.id)

    def push(self):
        self.end_with_standard_input()
        model = MessageModel.BROADCASTING if self.given.broadcasting else MessageModel.CLUSTERING

        def create():
            consumer = PushConsumer(self.given.group, orderly=self.given.orderly, message_model=model)
            consumer.set_thread_count(4)
            consumer.subscribe(self.given.topic, self.consume, self.given.filter)
            return consumer

        consumer = self.start(create)
        self.await_end()
        return consumer


if __name__ == "__main__":
    run(Agent(options(["produce", "push"])))
