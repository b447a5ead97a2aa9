"""What an SQS does: `python sqs.py URL` prints each observation's name and result."""

import hashlib
import json
import sys
import threading
import time

from observing import entries, fresh, members, print_all, refusal

OBSERVATIONS = []


def observe(observation):
    OBSERVATIONS.append(observation)
    return observation


class Bench:
    """A queue of one observation."""

    def __init__(self, endpoint, **attributes):
        self.sqs = endpoint.sqs
        self.name = fresh()
        self.url = self.sqs.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]

    def send(self, body="body", **more):
        return self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **more)

    def receive(self, url=None, **more):
        more.setdefault("MaxNumberOfMessages", 10)
        return self.sqs.receive_message(QueueUrl=url or self.url, **more).get("Messages", [])

    def one(self, **more):
        """A message that was sent and received."""
        self.send()
        [message] = self.receive(**more)
        return message

    def delete(self, handle):
        return refusal(self.sqs.delete_message, QueueUrl=self.url, ReceiptHandle=handle)

    def hide(self, handle, seconds):
        change = self.sqs.change_message_visibility
        return refusal(change, QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=seconds)

    def attributes(self, *names, url=None):
        answer = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=list(names))
        return answer.get("Attributes", {})

    def counts(self, url=None):
        names = [f"ApproximateNumberOfMessages{name}" for name in ("", "NotVisible", "Delayed")]
        shown = self.attributes(*names, url=url)
        return [int(shown[name]) for name in names]

    def refused_attribute(self, name, value):
        return refusal(self.sqs.set_queue_attributes, QueueUrl=self.url, Attributes={name: value})


# Queues


@observe
def a_queue_is_found_by_its_name(endpoint):
    bench = Bench(endpoint)
    found = bench.sqs.get_queue_url(QueueName=bench.name)
    return {"same": found["QueueUrl"] == bench.url, "path": bench.url.split("/")[-2:] == ["123456789012", bench.name]}


@observe
def a_queue_is_listed_by_its_prefix(endpoint):
    bench = Bench(endpoint)
    return bench.sqs.list_queues(QueueNamePrefix=bench.name)["QueueUrls"] == [bench.url]


@observe
def a_list_without_queues_has_no_urls(endpoint):
    return members(endpoint.sqs.list_queues(QueueNamePrefix="nothing-has-this-name"))


@observe
def a_list_comes_in_pages(endpoint):
    bench = Bench(endpoint)
    for number in range(3):
        bench.sqs.create_queue(QueueName=f"{bench.name}-{number}")
    first = bench.sqs.list_queues(QueueNamePrefix=f"{bench.name}-", MaxResults=2)
    second = bench.sqs.list_queues(QueueNamePrefix=f"{bench.name}-", MaxResults=2, NextToken=first["NextToken"])
    return [len(first["QueueUrls"]), len(second["QueueUrls"]), "NextToken" in second]


@observe
def a_queue_is_made_twice_with_the_same_attributes(endpoint):
    bench = Bench(endpoint, VisibilityTimeout="77")
    again = bench.sqs.create_queue(QueueName=bench.name, Attributes={"VisibilityTimeout": "77"})
    return again["QueueUrl"] == bench.url


@observe
def a_queue_is_made_again_without_attributes(endpoint):
    bench = Bench(endpoint, VisibilityTimeout="77")
    return refusal(bench.sqs.create_queue, QueueName=bench.name)


@observe
def a_queue_is_made_twice_with_other_attributes(endpoint):
    bench = Bench(endpoint, VisibilityTimeout="77")
    return refusal(bench.sqs.create_queue, QueueName=bench.name, Attributes={"VisibilityTimeout": "78"})


@observe
def a_queue_cannot_have_every_name(endpoint):
    sqs = endpoint.sqs
    return {name: refusal(sqs.create_queue, QueueName=name) for name in ("", "a b", "a.b")} | {
        "81 letters": refusal(sqs.create_queue, QueueName="x" * 81),
        "80 letters": refusal(sqs.create_queue, QueueName=fresh("y").ljust(80, "y")),
    }


@observe
def a_queue_without_a_name_is_refused(endpoint):
    return refusal(endpoint.sqs.create_queue)


@observe
def a_queue_that_is_not_there_is_refused(endpoint):
    sqs = endpoint.sqs
    gone = Bench(endpoint)
    gone.sqs.delete_queue(QueueUrl=gone.url)
    url = {"QueueUrl": gone.url}
    entry = {"Id": "a", "ReceiptHandle": "x"}
    return {
        "GetQueueUrl": refusal(sqs.get_queue_url, QueueName=gone.name),
        "GetQueueAttributes": refusal(sqs.get_queue_attributes, **url, AttributeNames=["All"]),
        "SetQueueAttributes": refusal(sqs.set_queue_attributes, **url, Attributes={"VisibilityTimeout": "1"}),
        "SendMessage": refusal(sqs.send_message, **url, MessageBody="b"),
        "SendMessageBatch": refusal(sqs.send_message_batch, **url, Entries=[{"Id": "a", "MessageBody": "b"}]),
        "ReceiveMessage": refusal(sqs.receive_message, **url),
        "DeleteMessage": refusal(sqs.delete_message, **url, ReceiptHandle="x"),
        "DeleteMessageBatch": refusal(sqs.delete_message_batch, **url, Entries=[entry]),
        "ChangeMessageVisibility": refusal(
            sqs.change_message_visibility, **url, ReceiptHandle="x", VisibilityTimeout=1),
        "ChangeMessageVisibilityBatch": refusal(
            sqs.change_message_visibility_batch, **url, Entries=[{**entry, "VisibilityTimeout": 1}]),
        "PurgeQueue": refusal(sqs.purge_queue, **url),
        "DeleteQueue": refusal(sqs.delete_queue, **url),
    }


@observe
def attributes_have_defaults(endpoint):
    names = ["VisibilityTimeout", "DelaySeconds", "ReceiveMessageWaitTimeSeconds", "MessageRetentionPeriod",
             "MaximumMessageSize"]
    return Bench(endpoint).attributes(*names)


@observe
def all_attributes_are_shown(endpoint):
    return sorted(Bench(endpoint).attributes("All"))


@observe
def no_attribute_is_shown_unasked(endpoint):
    bench = Bench(endpoint)
    return members(bench.sqs.get_queue_attributes(QueueUrl=bench.url))


@observe
def an_attribute_that_is_not_set_is_left_out(endpoint):
    return Bench(endpoint).attributes("RedrivePolicy", "DelaySeconds")


@observe
def attributes_are_set(endpoint):
    bench = Bench(endpoint, VisibilityTimeout="11")
    bench.sqs.set_queue_attributes(QueueUrl=bench.url, Attributes={"DelaySeconds": "1", "MessageRetentionPeriod": "60"})
    return bench.attributes("VisibilityTimeout", "DelaySeconds", "MessageRetentionPeriod")


@observe
def a_queue_has_its_arn(endpoint):
    bench = Bench(endpoint)
    return bench.attributes("QueueArn")["QueueArn"] == f"arn:aws:sqs:us-east-1:123456789012:{bench.name}"


@observe
def an_unknown_attribute_is_refused(endpoint):
    bench = Bench(endpoint)
    ask = bench.sqs.get_queue_attributes
    return {
        "shown": refusal(ask, QueueUrl=bench.url, AttributeNames=["Nonsense"]),
        "set": bench.refused_attribute("Nonsense", "1"),
        "set, and not to be set": bench.refused_attribute("QueueArn", "arn"),
    }


@observe
def an_attribute_out_of_its_range_is_refused(endpoint):
    bench = Bench(endpoint)
    values = [("VisibilityTimeout", "43201"), ("VisibilityTimeout", "-1"), ("VisibilityTimeout", "soon"),
              ("DelaySeconds", "901"), ("ReceiveMessageWaitTimeSeconds", "21"), ("MessageRetentionPeriod", "59"),
              ("MessageRetentionPeriod", "1209601"), ("MaximumMessageSize", "1023"), ("MaximumMessageSize", "1048577")]
    return {f"{name} {value}": bench.refused_attribute(name, value) for name, value in values}


@observe
def a_queue_with_an_attribute_out_of_its_range_is_not_made(endpoint):
    create = endpoint.sqs.create_queue
    return refusal(create, QueueName=fresh(), Attributes={"VisibilityTimeout": "43201"})


@observe
def a_deleted_queue_is_not_listed(endpoint):
    bench = Bench(endpoint)
    bench.sqs.delete_queue(QueueUrl=bench.url)
    return members(bench.sqs.list_queues(QueueNamePrefix=bench.name))


@observe
def a_purge_empties_a_queue(endpoint):
    bench = Bench(endpoint)
    held = bench.one()
    bench.send()
    bench.sqs.purge_queue(QueueUrl=bench.url)
    return {"counts": bench.counts(), "delete of one held": bench.delete(held["ReceiptHandle"])}


@observe
def a_purge_waits_for_the_one_before(endpoint):
    bench = Bench(endpoint)
    bench.sqs.purge_queue(QueueUrl=bench.url)
    return refusal(bench.sqs.purge_queue, QueueUrl=bench.url)


# Sending


@observe
def a_sent_message_is_told_with_its_digest(endpoint):
    sent = Bench(endpoint).send("grüße 🦀")
    return {"members": members(sent), "digest": sent["MD5OfMessageBody"]}


@observe
def a_message_without_a_body_is_refused(endpoint):
    bench = Bench(endpoint)
    return {"none": refusal(bench.sqs.send_message, QueueUrl=bench.url), "empty": refusal(bench.send, body="")}


@observe
def a_body_has_a_greatest_size(endpoint):
    bench = Bench(endpoint)
    return {"1 MiB": refusal(bench.send, body="x" * 1_048_576), "more": refusal(bench.send, body="x" * 1_048_577)}


@observe
def a_queue_has_a_greatest_size_of_its_own(endpoint):
    bench = Bench(endpoint, MaximumMessageSize="1024")
    return {"1024": refusal(bench.send, body="x" * 1024), "1025": refusal(bench.send, body="x" * 1025)}


@observe
def a_body_of_control_characters_is_refused(endpoint):
    return refusal(Bench(endpoint).send, body="\x07")


@observe
def a_message_without_a_queue_is_refused(endpoint):
    return refusal(endpoint.sqs.send_message, MessageBody="b")


@observe
def a_delayed_message_comes_later(endpoint):
    bench = Bench(endpoint)
    bench.send(DelaySeconds=3)
    before = [bench.counts(), len(bench.receive())]
    return [before, len(bench.receive(WaitTimeSeconds=10))]


@observe
def a_delay_out_of_its_range_is_refused(endpoint):
    bench = Bench(endpoint)
    return {seconds: refusal(bench.send, DelaySeconds=seconds) for seconds in (-1, 901)}


@observe
def message_attributes_have_digests(endpoint):
    own = {"a.text": {"DataType": "String", "StringValue": "x"}, "b": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
           "c": {"DataType": "Number.int", "StringValue": "5"}}
    bench = Bench(endpoint)
    sent = bench.send(MessageAttributes=own)
    [message] = bench.receive(MessageAttributeNames=["All"], VisibilityTimeout=0)
    [some] = bench.receive(MessageAttributeNames=["a.*", "c"], VisibilityTimeout=0)
    return {
        "sent": sent["MD5OfMessageAttributes"], "members": members(sent), "received": message["MD5OfMessageAttributes"],
        "same": message["MessageAttributes"] == own, "some": sorted(some["MessageAttributes"]),
        "of some": some["MD5OfMessageAttributes"],
    }


@observe
def message_attributes_that_cannot_be_are_refused(endpoint):
    bench = Bench(endpoint)
    text = {"DataType": "String", "StringValue": "x"}
    cases = {
        "no type": {"a": {"StringValue": "x"}}, "no value": {"a": {"DataType": "String"}},
        "an empty value": {"a": {**text, "StringValue": ""}}, "another type": {"a": {**text, "DataType": "Text"}},
        "no number": {"a": {"DataType": "Number", "StringValue": "x"}}, "a reserved name": {"AWS.x": text},
        "a name with a space": {"a b": text}, "eleven": {f"a{number}": text for number in range(11)},
    }
    return {name: refusal(bench.send, MessageAttributes=attributes) for name, attributes in cases.items()}


# Receiving


@observe
def an_empty_queue_gives_no_messages(endpoint):
    bench = Bench(endpoint)
    return members(bench.sqs.receive_message(QueueUrl=bench.url))


@observe
def a_received_message_has_only_what_was_asked_for(endpoint):
    bench = Bench(endpoint)
    bench.send(MessageAttributes={"a": {"DataType": "String", "StringValue": "x"}})
    asked = [{}, {"AttributeNames": ["ApproximateReceiveCount"]},
             {"MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"]},
             {"MessageSystemAttributeNames": ["All"]}]
    received = [bench.receive(VisibilityTimeout=0, **names)[0] for names in asked]
    return [[members(message), sorted(message.get("Attributes", {}))] for message in received]


@observe
def an_unknown_system_attribute_is_refused(endpoint):
    bench = Bench(endpoint)
    return refusal(bench.receive, MessageSystemAttributeNames=["Nonsense"])


@observe
def a_trace_header_travels_with_its_message(endpoint):
    bench = Bench(endpoint)
    header = "Root=1-5759e988-bd862e3fe1be46a994272793"
    sent = bench.send(MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": header}})
    [message] = bench.receive(MessageSystemAttributeNames=["AWSTraceHeader"])
    return {"members": members(sent), "digest": sent.get("MD5OfMessageSystemAttributes", "none"),
            "same": message["Attributes"] == {"AWSTraceHeader": header}}


@observe
def a_body_comes_as_it_was_sent(endpoint):
    bench = Bench(endpoint)
    body = ' {"a": "grüße 🦀 <&>",\r\n\t"b": "\\u0041"} '
    sent = bench.send(body)
    [message] = bench.receive()
    digest = hashlib.md5(body.encode()).hexdigest()
    return [message["Body"] == body, message["MD5OfBody"] == digest, message["MessageId"] == sent["MessageId"]]


@observe
def receives_are_counted(endpoint):
    bench = Bench(endpoint)
    bench.send()
    names = ["ApproximateReceiveCount"]
    receives = [bench.receive(VisibilityTimeout=0, AttributeNames=names)[0] for _ in range(3)]
    return [[message["Attributes"] for message in receives], len({message["ReceiptHandle"] for message in receives})]


@observe
def a_held_message_is_in_flight(endpoint):
    bench = Bench(endpoint)
    before = (bench.send(), bench.counts())[1]
    bench.receive()
    return [before, bench.counts(), len(bench.receive())]


@observe
def a_held_message_returns_when_its_visibility_lapses(endpoint):
    bench = Bench(endpoint)
    bench.one(VisibilityTimeout=3)
    return [len(bench.receive()), len(bench.receive(WaitTimeSeconds=10))]


@observe
def a_queue_has_a_visibility_of_its_own(endpoint):
    bench = Bench(endpoint, VisibilityTimeout="3")
    bench.one()
    return [len(bench.receive()), len(bench.receive(WaitTimeSeconds=10))]


@observe
def at_most_ten_are_received(endpoint):
    bench = Bench(endpoint)
    for part in range(2):
        bench.sqs.send_message_batch(
            QueueUrl=bench.url, Entries=[{"Id": str(number), "MessageBody": str(part)} for number in range(6)])
    return [len(bench.receive(MaxNumberOfMessages=10)), len(bench.receive(MaxNumberOfMessages=10))]


@observe
def one_is_received_unless_more_are_asked_for(endpoint):
    bench = Bench(endpoint)
    bench.send()
    bench.send()
    return len(bench.sqs.receive_message(QueueUrl=bench.url)["Messages"])


@observe
def a_number_out_of_its_range_is_refused(endpoint):
    bench = Bench(endpoint)
    inputs = [("MaxNumberOfMessages", 0), ("MaxNumberOfMessages", 11), ("WaitTimeSeconds", -1), ("WaitTimeSeconds", 21),
              ("VisibilityTimeout", -1), ("VisibilityTimeout", 43_201)]
    return {f"{name} {value}": refusal(bench.receive, **{name: value}) for name, value in inputs}


@observe
def a_long_poll_wakes(endpoint):
    bench = Bench(endpoint)
    other = endpoint.client("sqs")
    polling = threading.Event()
    other.meta.events.register("before-send", lambda **_: polling.set())
    received = []

    def poll():
        received.extend(other.receive_message(QueueUrl=bench.url, WaitTimeSeconds=20).get("Messages", []))

    thread = threading.Thread(target=poll)
    thread.start()
    polling.wait()
    bench.send()
    thread.join(timeout=15)
    return {"woken": not thread.is_alive(), "messages": len(received)}


@observe
def a_long_poll_lasts_as_long_as_it_was_told(endpoint):
    bench = Bench(endpoint, ReceiveMessageWaitTimeSeconds="1")
    begun = time.monotonic()
    by_queue = len(bench.receive())
    between = time.monotonic()
    at_once = len(bench.receive(WaitTimeSeconds=0))
    return [by_queue, between - begun >= 0.9, at_once]


# Settling


@observe
def a_deleted_message_is_gone(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    return [bench.delete(message["ReceiptHandle"]), bench.counts()]


@observe
def a_message_is_deleted_twice(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    return [bench.delete(message["ReceiptHandle"]), bench.delete(message["ReceiptHandle"])]


@observe
def a_message_whose_visibility_lapsed_can_be_deleted(endpoint):
    bench = Bench(endpoint)
    message = bench.one(VisibilityTimeout=0)
    return [bench.delete(message["ReceiptHandle"]), bench.counts()]


@observe
def an_older_handle_deletes_nothing_that_is_held_anew(endpoint):
    bench = Bench(endpoint)
    old = bench.one(VisibilityTimeout=0)
    bench.receive()
    return [bench.delete(old["ReceiptHandle"]), bench.counts()]


@observe
def an_older_handle_hides_nothing_that_is_held_anew(endpoint):
    bench = Bench(endpoint)
    old = bench.one(VisibilityTimeout=0)
    bench.receive()
    return bench.hide(old["ReceiptHandle"], 60)


@observe
def garbage_is_no_handle(endpoint):
    bench = Bench(endpoint)
    return {"delete": bench.delete("garbage"), "hide": bench.hide("garbage", 1)}


@observe
def an_empty_handle_is_refused(endpoint):
    bench = Bench(endpoint)
    return {"delete": bench.delete(""), "hide": bench.hide("", 1)}


@observe
def a_missing_handle_is_refused(endpoint):
    bench = Bench(endpoint)
    url = {"QueueUrl": bench.url}
    return {"delete": refusal(bench.sqs.delete_message, **url),
            "hide": refusal(bench.sqs.change_message_visibility, **url, VisibilityTimeout=1)}


@observe
def a_handle_of_another_queue_does_nothing(endpoint):
    bench, other = Bench(endpoint), Bench(endpoint)
    foreign = other.one()["ReceiptHandle"]
    return {"delete": bench.delete(foreign), "hide": bench.hide(foreign, 1), "counts": other.counts()}


@observe
def a_message_is_hidden_longer_and_shown_at_once(endpoint):
    bench = Bench(endpoint)
    message = bench.one(VisibilityTimeout=3)
    longer = bench.hide(message["ReceiptHandle"], 60)
    held = len(bench.receive(WaitTimeSeconds=4))
    return [longer, held, bench.hide(message["ReceiptHandle"], 0), len(bench.receive())]


@observe
def a_visible_message_cannot_be_hidden(endpoint):
    bench = Bench(endpoint)
    message = bench.one(VisibilityTimeout=0)
    return bench.hide(message["ReceiptHandle"], 10)


@observe
def a_deleted_message_cannot_be_hidden(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    bench.delete(message["ReceiptHandle"])
    return bench.hide(message["ReceiptHandle"], 10)


@observe
def a_visibility_out_of_its_range_is_refused(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    return {seconds: bench.hide(message["ReceiptHandle"], seconds) for seconds in (-1, 43_201)}


@observe
def a_visibility_without_seconds_is_refused(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    change = bench.sqs.change_message_visibility
    return refusal(change, QueueUrl=bench.url, ReceiptHandle=message["ReceiptHandle"])


@observe
def nothing_is_held_for_more_than_twelve_hours_in_all(endpoint):
    bench = Bench(endpoint)
    message = bench.one()
    # A second of the twelve hours is over.
    time.sleep(1.1)
    return {"twelve hours more": bench.hide(message["ReceiptHandle"], 43_200),
            "less": bench.hide(message["ReceiptHandle"], 43_100)}


# Batches


def batches(bench):
    """Each batch operation, with entries that it accepts in form."""
    handle = bench.one()["ReceiptHandle"]
    return [
        (bench.sqs.send_message_batch, {"MessageBody": "b"}),
        (bench.sqs.delete_message_batch, {"ReceiptHandle": handle}),
        (bench.sqs.change_message_visibility_batch, {"ReceiptHandle": handle, "VisibilityTimeout": 1}),
    ]


@observe
def a_batch_that_cannot_be_is_refused_as_a_whole(endpoint):
    bench = Bench(endpoint)
    results = {}
    for call, entry in batches(bench):
        for name, ids in [("none", []), ("eleven", list("abcdefghijk")), ("twice", ["a", "a"]), ("a space", ["a b"]),
                          ("empty", [""]), ("81 letters", ["x" * 81])]:
            made = [{**entry, "Id": one} for one in ids]
            results[f"{call.__name__}, {name}"] = refusal(call, QueueUrl=bench.url, Entries=made)
    return results


@observe
def a_batch_without_entries_at_all_is_refused(endpoint):
    bench = Bench(endpoint)
    return {call.__name__: refusal(call, QueueUrl=bench.url) for call, _ in batches(bench)}


@observe
def a_batch_has_a_greatest_size_in_all(endpoint):
    bench = Bench(endpoint)
    made = [{"Id": str(number), "MessageBody": "x" * 600_000} for number in range(2)]
    return [refusal(bench.sqs.send_message_batch, QueueUrl=bench.url, Entries=made), bench.counts()]


@observe
def messages_are_sent_one_by_one(endpoint):
    bench = Bench(endpoint)
    made = [{"Id": "a", "MessageBody": "a"}, {"Id": "b", "MessageBody": "b", "DelaySeconds": 900}]
    answer = bench.sqs.send_message_batch(QueueUrl=bench.url, Entries=made)
    return [entries(answer), [members(entry) for entry in answer["Successful"]], bench.counts()]


@observe
def an_entry_that_cannot_be_sent_keeps_no_other_from_it(endpoint):
    bench = Bench(endpoint)
    made = [{"Id": "good", "MessageBody": "a"}, {"Id": "bad", "MessageBody": "\x07"}]
    return [entries(bench.sqs.send_message_batch(QueueUrl=bench.url, Entries=made)), bench.counts()]


@observe
def messages_are_deleted_one_by_one(endpoint):
    bench = Bench(endpoint)
    handle = bench.one()["ReceiptHandle"]
    made = [{"Id": "good", "ReceiptHandle": handle}, {"Id": "bad", "ReceiptHandle": "garbage"}]
    answer = bench.sqs.delete_message_batch(QueueUrl=bench.url, Entries=made)
    return [entries(answer), bench.counts()]


@observe
def messages_are_hidden_one_by_one(endpoint):
    bench = Bench(endpoint)
    first, second = bench.one()["ReceiptHandle"], bench.one()["ReceiptHandle"]
    made = [
        {"Id": "later", "ReceiptHandle": first, "VisibilityTimeout": 100},
        {"Id": "now", "ReceiptHandle": second, "VisibilityTimeout": 0},
        {"Id": "garbage", "ReceiptHandle": "garbage", "VisibilityTimeout": 1},
        {"Id": "far", "ReceiptHandle": first, "VisibilityTimeout": 43_201},
    ]
    answer = bench.sqs.change_message_visibility_batch(QueueUrl=bench.url, Entries=made)
    return [entries(answer), bench.counts()]


# Redrive


def with_dead_letters(endpoint, most):
    bench = Bench(endpoint)
    dead = bench.sqs.create_queue(QueueName=f"{bench.name}-dead")["QueueUrl"]
    arn = bench.attributes("QueueArn", url=dead)["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": most})
    bench.sqs.set_queue_attributes(QueueUrl=bench.url, Attributes={"RedrivePolicy": policy})
    return bench, dead, arn


@observe
def a_message_received_too_often_moves(endpoint):
    bench, dead, _ = with_dead_letters(endpoint, 2)
    sent = bench.send()
    receives = [len(bench.receive(VisibilityTimeout=0)) for _ in range(3)]
    [letter] = bench.receive(url=dead, AttributeNames=["All"])
    source = letter["Attributes"].get("DeadLetterQueueSourceArn", "none")
    return {
        "receives": receives, "same id": letter["MessageId"] == sent["MessageId"], "left": bench.counts(),
        "count": letter["Attributes"]["ApproximateReceiveCount"], "source": source.endswith(f":{bench.name}"),
    }


@observe
def a_redrive_policy_is_shown_and_taken_away(endpoint):
    bench, _, arn = with_dead_letters(endpoint, 2)
    shown = json.loads(bench.attributes("RedrivePolicy")["RedrivePolicy"])
    away = bench.refused_attribute("RedrivePolicy", "")
    return [shown == {"deadLetterTargetArn": arn, "maxReceiveCount": 2}, away, sorted(bench.attributes("RedrivePolicy"))]


@observe
def a_redrive_policy_that_cannot_be_is_refused(endpoint):
    bench, _, arn = with_dead_letters(endpoint, 2)
    cases = {
        "no JSON": "soon", "no target": '{"maxReceiveCount": 2}', "no count": json.dumps({"deadLetterTargetArn": arn}),
        "zero": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 0}),
        "1001": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1001}),
        "nowhere": json.dumps({"deadLetterTargetArn": f"{arn}-nowhere", "maxReceiveCount": 2}),
    }
    return {name: bench.refused_attribute("RedrivePolicy", policy) for name, policy in cases.items()}


@observe
def the_sources_of_a_dead_letter_queue_are_listed(endpoint):
    bench, dead, _ = with_dead_letters(endpoint, 2)
    return bench.sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [bench.url]


print_all(OBSERVATIONS, sys.argv[1])
