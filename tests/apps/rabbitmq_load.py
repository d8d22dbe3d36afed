#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Queues of RabbitMQ, each with a thread that publishes messages of all sizes, confirmed, and one that takes and checks them."""
import sys
import threading

import pika

QUEUES = 4
MESSAGES = 400


def body(queue, number):
    return b"%d.%d-" % (queue, number) * (1 + number * 37 % 4000)


def channel_of(parameters, queue):
    channel = pika.BlockingConnection(parameters).channel()
    channel.queue_declare(f"q{queue}")
    return channel


def publish(parameters, queue):
    channel = channel_of(parameters, queue)
    channel.confirm_delivery()
    for number in range(MESSAGES):
        channel.basic_publish("", f"q{queue}", body(queue, number))
    channel.connection.close()


def take(parameters, queue, right):
    channel = channel_of(parameters, queue)
    channel.basic_qos(prefetch_count=20)
    for method, _, content in channel.consume(f"q{queue}"):
        if content != body(queue, right[queue]):
            raise ValueError(f"queue {queue}: message {right[queue]} is wrong")
        channel.basic_ack(method.delivery_tag)
        right[queue] += 1
        if right[queue] == MESSAGES:
            break
    channel.cancel()
    channel.connection.close()


def main():
    parameters = pika.ConnectionParameters(sys.argv[1], int(sys.argv[2]))
    right = [0] * QUEUES
    threads = [threading.Thread(target=publish, args=(parameters, queue)) for queue in range(QUEUES)]
    threads += [threading.Thread(target=take, args=(parameters, queue, right)) for queue in range(QUEUES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if right != [MESSAGES] * QUEUES:
        sys.exit(f"messages that came right: {right}")
    print(f"{QUEUES * MESSAGES} messages right")


if __name__ == "__main__":
    main()
