"""What holds seen from outside: the built binary on an SQS that is not ours (moto) and a scripted SageMaker."""

import concurrent.futures
import json
import shutil
import sys
import time
import traceback

from world import Moto, World, alive, until

CLAIMS = []


def claim(function):
    CLAIMS.append(function)
    return function


RUN_ONCE = 'echo "start $STEP_ATTEMPT" >> $DIR/runs; cat > $DIR/stdin; '
GATED = RUN_ONCE + "until [ -e $DIR/go ]; do sleep 0.05; done; echo answer=42 >> $STEP_OUTPUT"
CLEANUP = 'echo "$STEP_STOP_REASON $(cat $STEP_CHECKPOINT)" >> $DIR/cleanups'


@claim
def a_step_succeeds_with_its_outputs_and_another_fails_with_the_end_of_stderr(world):
    world.start(script=RUN_ONCE + """
        case $(cat $DIR/stdin) in *fail*) echo lost the disk >&2; exit 3;; esac
        printf '{"accuracy": 0.920, "ok": true}' > $STEP_OUTPUT""")
    good, bad = world.step(), world.step(arguments={"how": "fail"})
    world.until_done(good, bad)
    assert world.sagemaker.steps[good]["outputs"] == {"accuracy": "0.92", "ok": "true"}
    assert world.sagemaker.steps[bad]["reason"] == "exit status 3: lost the disk"
    assert world.metric('callbackd_steps_total{queue="') == 2


@claim
def every_retry_of_a_report_is_the_identical_request(world):
    world.sagemaker.fail("Send", 1, "before")
    world.sagemaker.fail("Send", 1, "after")
    world.sagemaker.fail("Send", 1, (500, "InternalFailure"))
    world.sagemaker.fail("Send", 1, (400, "ThrottlingException"))
    world.start(script=RUN_ONCE + "echo a=1 > $STEP_OUTPUT")
    token = world.step()
    world.until_done(token)
    assert len(world.sagemaker.reports(token)) >= 3
    assert world.lines("runs") == ["start 1"]


@claim
def a_report_refused_while_the_step_waits_is_sent_again_until_it_is_taken(world):
    world.sagemaker.fail("Send", 2, (400, "ValidationException"))
    world.start(script=RUN_ONCE)
    world.until_done(world.step())
    assert world.lines("runs") == ["start 1"]


@claim
def killed_while_running_a_step_runs_again_with_its_checkpoint_and_nothing_of_the_first_run(world):
    worker = world.start(script="""
        echo "start $STEP_ATTEMPT $(cat $STEP_CHECKPOINT)" >> $DIR/runs
        [ $STEP_ATTEMPT = 1 ] || { echo again=1 > $STEP_OUTPUT; exit 0; }
        sleep 600 & echo $! > $DIR/grandchild
        echo job-7 > $STEP_CHECKPOINT; echo $$ > $DIR/child
        wait""")
    token = world.step()
    until("its checkpoint is kept", lambda: "job-7" in json.dumps((world.record(token) or {}).get("checkpoint")))
    pids = [int(world.lines(name)[0]) for name in ("child", "grandchild")]
    assert all(alive(pid) for pid in pids)
    worker.kill()
    world.start()
    until("it runs again", lambda: len(world.lines("runs")) == 2)
    assert not any(alive(pid) for pid in pids)
    world.until_done(token)
    assert world.lines("runs") == ["start 1 ", "start 2 job-7"]


@claim
def killed_before_the_report_is_accepted_an_outcome_is_sent_and_not_computed_again(world):
    world.sagemaker.down = True
    worker = world.start(script=RUN_ONCE + "echo a=$$ > $STEP_OUTPUT")
    token = world.step()
    until("it is concluded", lambda: (world.record(token) or {}).get("status") == "concluded")
    worker.kill()
    world.sagemaker.down = False
    world.start()
    world.until_done(token)
    assert world.lines("runs") == ["start 1"]


@claim
def killed_between_report_and_delete_a_step_is_only_deleted(world):
    world.proxy.cut_after["DeleteMessageBatch"] = 0
    worker = world.start(script=RUN_ONCE)
    token = world.token()
    world.sagemaker.fail("Send", 1, "after")
    world.step(token)
    until("it is accepted", lambda: world.ended(token))
    worker.kill()
    world.start()
    world.until_done(token)
    assert world.lines("runs") == ["start 1"]


@claim
def five_copies_of_a_message_run_one_handler(world):
    world.start(script=GATED)
    token = world.step()
    for _ in range(4):
        world.send(world.body(token))
    until("all copies are held", lambda: world.counts() == (0, 5))
    world.touch("go")
    world.until_done(token)
    assert world.lines("runs") == ["start 1"]


@claim
def a_job_of_three_visibility_timeouts_runs_once(world):
    world.start(script=GATED)
    token = world.step()
    until("it runs", lambda: world.lines("runs"))
    end = time.monotonic() + 32
    until("three visibility timeouts pass", lambda: world.counts()[0] == 1 or time.monotonic() > end)
    assert world.counts() == (0, 1), "the message became visible"
    world.touch("go")
    world.until_done(token)
    assert world.lines("runs") == ["start 1"]


@claim
def a_message_is_replaced_before_its_time_and_the_job_runs_once(world):
    world.start(script=GATED, queue='repost_after = "10s"')
    token = world.step()
    until("it was replaced", lambda: "SendMessage" in world.proxy.requests)
    until("the old one is deleted", lambda: sum(world.counts()) == 1)
    world.touch("go")
    world.until_done(token)
    assert world.lines("runs") == ["start 1"]


@claim
def sagemaker_and_sqs_gone_for_a_while_cost_nothing_but_time(world):
    world.start(script=GATED)
    first = world.step()
    until("it runs", lambda: world.lines("runs"))
    world.sagemaker.down = True
    world.proxy.stop()
    world.touch("go")
    until("it is concluded", lambda: world.record(first)["status"] == "concluded")
    end = time.monotonic() + 8
    until("eight seconds pass", lambda: time.monotonic() > end)
    world.proxy.start()
    second = world.step()
    until("the other is concluded", lambda: (world.record(second) or {}).get("status") == "concluded")
    world.sagemaker.down = False
    world.until_done(first, second)
    assert world.lines("runs") == ["start 1", "start 1"]


@claim
def what_cannot_be_read_does_no_harm_and_stays_on_the_queue(world):
    world.start(script=RUN_ONCE)
    token = world.token()
    deep = world.body(token)[:-1] + ', "arguments": ' + "[" * 10_000 + "]" * 10_000 + "}"
    for body in ["garbage", deep, world.body(token, account="999999999999"), world.body("short"), world.body(token, "Stopped")]:
        world.send(body)
    until("they are counted", lambda: world.metric("callbackd_messages_unreadable_total") >= 5)
    world_token = world.step()
    until("a good one is done", lambda: world.ended(world_token))
    until("only it is deleted", lambda: sum(world.counts()) == 5)
    assert world.lines("runs") == ["start 1"]
    assert world.get("/healthz")[0] == 200


@claim
def outputs_and_reasons_beyond_the_limits_are_failures_that_say_so(world):
    world.start(script="""
        case $(cat) in
            *many*) i=0; while [ $i -lt 51 ]; do echo o$i=1; i=$((i+1)); done > $STEP_OUTPUT;;
            *long*) i=0; while [ $i -lt 1000 ]; do printf ä >&2; i=$((i+1)); done; exit 1;;
        esac""")
    many, long = world.step(arguments={"x": "many"}), world.step(arguments={"x": "long"})
    world.until_done(many, long)
    assert "more than 50 outputs" in world.sagemaker.steps[many]["reason"]
    assert world.sagemaker.steps[long]["reason"].endswith("ä" * 100)


@claim
def a_running_step_is_stopped_cleaned_up_and_answered(world):
    world.start(script="echo job-7 > $STEP_CHECKPOINT; echo start >> $DIR/runs; exec sleep 600", cleanup=CLEANUP)
    token = world.step()
    until("its checkpoint is kept", lambda: "job-7" in json.dumps((world.record(token) or {}).get("checkpoint")))
    world.stop(token)
    world.until_done(token)
    assert world.lines("cleanups") == ["pipeline_stopped job-7"]
    assert world.sagemaker.steps[token]["reason"] == "the pipeline was stopped"
    assert world.lines("runs") == ["start"]
    assert world.metric('callbackd_stops_total') == 1


@claim
def a_stop_is_answered_although_its_cleanup_fails(world):
    world.start(script="echo start >> $DIR/runs; exec sleep 600", cleanup="echo no permission >&2; exit 4", handler='on_stop = "failure"')
    token = world.step()
    until("it runs", lambda: world.lines("runs"))
    world.stop(token)
    world.until_done(token)
    assert "no permission" in world.sagemaker.steps[token]["reason"], world.sagemaker.steps[token]


@claim
def a_stop_whose_message_is_lost_is_noticed_with_every_slot_busy(world):
    world.start(script="echo start >> $DIR/runs; exec sleep 600", cleanup=CLEANUP, queue="concurrency = 1", handler='on_stop = "success"')
    token = world.step()
    until("it runs", lambda: world.lines("runs"))
    world.sagemaker.execution_status = "Stopping"
    world.until_done(token)
    assert world.sagemaker.steps[token]["status"] == "Succeeded"
    assert len(world.lines("cleanups")) == 1


@claim
def a_stop_that_comes_first_keeps_its_step_from_running(world):
    world.start(script=RUN_ONCE, cleanup=CLEANUP, queue='stop_takeover_after = "1h"')
    token = world.token()
    world.wait_at_sagemaker(token)
    world.stop(token)
    until("it is owed", lambda: (world.record(token) or {}).get("status") == "owed")
    assert not world.ended(token) and world.counts() == (0, 1)
    world.send(world.body(token))
    world.until_done(token)
    assert world.lines("runs") == [] and len(world.lines("cleanups")) == 1


@claim
def a_stop_that_nobody_answers_is_answered_by_its_holder_and_late_work_is_not_run(world):
    world.start(script=RUN_ONCE, cleanup=CLEANUP)
    token = world.token()
    world.wait_at_sagemaker(token)
    world.stop(token)
    world.until_done(token)
    world.send(world.body(token))
    until("the late message is deleted", world.is_empty)
    assert world.lines("runs") == [] and len(world.lines("cleanups")) == 1


@claim
def exit_75_is_tried_again_and_then_fails_the_step(world):
    world.start(script=RUN_ONCE + "echo no route >&2; exit 75")
    token = world.step()
    world.until_done(token)
    assert world.lines("runs") == ["start 1", "start 2", "start 3"]
    assert world.sagemaker.steps[token]["reason"] == "gave up after 3 attempts: exit status 75: no route"


@claim
def exit_76_is_run_again_with_its_checkpoint_and_counts_no_attempt(world):
    world.start(settings='poll_interval = "1s"', script=RUN_ONCE + """
        printf x >> $STEP_CHECKPOINT
        [ $(wc -c < $STEP_CHECKPOINT) -ge 5 ] || exit 76
        echo polls=$(wc -c < $STEP_CHECKPOINT) > $STEP_OUTPUT""")
    token = world.step()
    world.until_done(token)
    assert world.lines("runs") == ["start 1"] * 5
    assert world.sagemaker.steps[token]["outputs"] == {"polls": "5"}


@claim
def a_step_beyond_its_time_limit_is_cleaned_up_and_fails(world):
    world.start(script="exec sleep 600", cleanup=CLEANUP, handler='time_limit = "2s"')
    token = world.step()
    world.until_done(token)
    assert world.sagemaker.steps[token]["reason"] == "the time limit of 2s was reached"
    assert world.lines("cleanups") == ["time_limit "]


@claim
def a_deferred_step_lets_its_message_go_and_can_still_be_stopped(world):
    world.start(script=RUN_ONCE, cleanup=CLEANUP, settings="deferred = true")
    token = world.step()
    until("it is deferred", lambda: (world.record(token) or {}).get("status") == "deferred")
    until("its message is deleted", world.is_empty)
    assert not world.ended(token)
    world.sagemaker.execution_status = "Stopping"
    world.until_done(token)
    assert len(world.lines("cleanups")) == 1


@claim
def a_redelivered_message_of_a_closed_step_is_not_run(world):
    token = world.step()
    world.sagemaker.steps[token]["status"] = "Succeeded"
    world.sqs.receive_message(QueueUrl=world.queue_url, VisibilityTimeout=1)
    world.start(script=RUN_ONCE)
    until("it is deleted", world.is_empty)
    assert world.lines("runs") == [] and world.sagemaker.reports(token) == []


@claim
def a_forged_message_of_another_queue_s_step_is_kept_and_not_run(world):
    token = world.step()
    world.sagemaker.steps[token]["queue"] = world.queue_url + "-other"
    world.start(script=RUN_ONCE, queue='verify = "always"')
    until("SageMaker was asked", lambda: any(op == "ListPipelineExecutionSteps" for op, _ in world.sagemaker.requests))
    until("it is refused", lambda: "another queue" in world.log())
    assert sum(world.counts()) == 1 and world.lines("runs") == []


@claim
def sigterm_lets_what_runs_finish_strands_nothing_and_exits_0(world):
    worker = world.start(script=GATED)
    token = world.step()
    until("it runs", lambda: world.lines("runs"))
    worker.terminate()
    until("it drains", lambda: world.get("/readyz")[0] == 503)
    for _ in range(5):
        world.send(world.body(world.token()))
    world.touch("go")
    assert worker.ends() == 0, world.log()
    assert world.sagemaker.steps[token]["answers"] == 1
    assert world.counts() == (5, 0), world.counts()
    assert world.lines("runs") == ["start 1"]


@claim
def a_second_sigterm_releases_what_runs_without_failing_it(world):
    worker = world.start(script="echo start >> $DIR/runs; echo $$ > $DIR/child; trap '' TERM; while :; do sleep 0.1; done")
    token = world.step()
    until("it runs", lambda: world.lines("child"))
    worker.terminate()
    until("it drains", lambda: world.get("/readyz")[0] == 503)
    worker.terminate()
    assert worker.ends() == 0, world.log()
    assert not alive(int(world.lines("child")[0]))
    assert world.counts() == (1, 0) and not world.ended(token)
    assert world.record(token)["status"] == "waiting"


@claim
def mistakes_in_the_configuration_are_all_told_before_any_call(world):
    path = world.config()
    path.write_text(path.read_text().replace('"10s"', '"5s"').replace('type = "exec"', 'type = "exek"') + "\n[oops]\n")
    world.proxy.requests.clear()
    ended = world.command("run")
    assert ended.returncode == 78, ended
    for text in ["queues[0].visibility_timeout: 5s", "handlers.work.type: `exek`", "oops", str(path)]:
        assert text in ended.stderr, ended.stderr
    assert world.proxy.requests == [] and world.sagemaker.requests == []
    assert world.command("check").returncode == 78
    assert world.command("nonsense").returncode == 2


@claim
def a_ledger_that_cannot_be_opened_is_exit_1_and_says_what_to_do(world):
    path = world.config()
    path.write_text(path.read_text().replace("/ledger.db", "/nowhere/ledger.db"))
    ended = world.command("run")
    assert ended.returncode == 1 and "nowhere" in ended.stderr and "create" in ended.stderr, ended
    world.config()
    world.start()
    until("the first is up", lambda: world.get("/readyz")[0] == 200)
    ended = world.command("run")
    assert ended.returncode == 1 and "another callbackd" in ended.stderr, ended


@claim
def health_readiness_steps_and_the_doctor_tell_how_it_fares(world):
    world.start(script=GATED)
    token = world.step()
    until("it is ready", lambda: world.get("/readyz")[0] == 200)
    until("it runs", lambda: world.lines("runs"))
    steps = json.loads(world.get("/steps")[1])
    assert [(step["token"], step["status"], step["activity"]) for step in steps] == [(token, "claimed", "running")], steps
    assert world.metric("callbackd_steps_running") == 1
    doctor = world.command("check", "--online")
    assert doctor.returncode == 0 and "dead-letter" in doctor.stdout, doctor
    world.touch("go")
    world.until_done(token)
    assert [record["status"] for record in world.records()] == ["settled"]


def main(names):
    moto = Moto()
    failed = []
    chosen = [function for function in CLAIMS if not names or function.__name__ in names]

    def run(function):
        world = World(moto, function.__name__[:60].replace("_", "-"))
        try:
            function(world)
            print(f"ok      {function.__name__}", flush=True)
            shutil.rmtree(world.directory, ignore_errors=True)
        except BaseException:
            failed.append(function.__name__)
            log = world.log()[-6000:]
            print(f"FAILED  {function.__name__} ({world.directory})\n{traceback.format_exc()}\n{log}", flush=True)
        finally:
            world.close()

    try:
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(run, chosen))
    finally:
        moto.close()
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
