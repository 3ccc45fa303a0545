//! A coordinator whose members others start: it may go away and come back, and a run in need of
//! actors says so.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Programs, Run, admin_address, alive, http_get, samples, wait_until};

use crate::LIMIT;
use crate::reliability::check_whole;

/// For so long the coordinator is gone.
const AWAY: Duration = Duration::from_secs(30);

/// Processes that somebody else started. Dropping them kills them.
struct Others(Vec<(String, Child)>);

impl Others {
    /// `PROGRAM-INDEX` each, of the run that is served in this directory; the coordinator chooses
    /// where INDEX is no number.
    fn start(run: &Run, address: &str, names: &[&str]) -> Self {
        let processes = run.dir().join("processes.json");
        wait_until("the coordinator", LIMIT, || processes.is_file().then_some(()));
        Self(names.iter().map(|name| (String::from(*name), start(run, address, name))).collect())
    }

    fn signal(&self, name: &str, signal: Signal) {
        let (_, child) = self.0.iter().find(|(known, _)| known == name).unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    fn expect_alive(&self) {
        for (name, child) in &self.0 {
            assert!(alive(child.id()), "{name} has ended");
        }
    }

    /// All end by themselves and in order.
    fn expect_ended(mut self, run: &Run) {
        for (name, child) in &mut self.0 {
            let status = wait_until(name, LIMIT, || child.try_wait().unwrap());
            assert_eq!(status.code(), Some(0), "{name}:\n{}", run.log(name));
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(run: &Run, address: &str, name: &str) -> Child {
    let (program, index) = name.rsplit_once('-').unwrap();
    let log = std::fs::File::create(run.dir().join(format!("logs/{name}.log"))).unwrap();
    let index = index.parse::<u32>().ok().map(|index| format!("--index={index}"));
    Command::new(Programs::get().path(program))
        .args(["--config", run.dir().join("config.toml").to_str().unwrap()])
        .args(["--coordinator", address, "--set", "admin.listen=127.0.0.1:0"])
        .args(index)
        .env("CANDLE_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// An address that is free at this moment.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A coordinator that waits for two actors.
fn serve<'a>(listen: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let small = ["serve", "--run-dir", "{dir}", "--actors", "2", "--set", listen];
    let set = ["train.steps=12", "train.samples_per_problem=4", "checkpoint.every_steps=2"];
    let set = set.into_iter().chain(["eval.enabled=false"]).flat_map(|pair| ["--set", pair]);
    small.into_iter().chain(set).chain(more.iter().copied()).collect()
}

#[test]
fn row_6_members_outlive_a_coordinator_that_is_gone_for_half_a_minute() {
    let address = free_address();
    let listen = format!("coordinator.listen={address}");
    let serve = serve(&listen, &[]);
    let mut run = Run::start(&serve);
    let names = ["weak-server-0", "learner-0", "actor-0", "actor-1"];
    let others = Others::start(&run, &address, &names);
    run.wait_for_steps(3, LIMIT);
    run.signal(Signal::SIGKILL);
    let _ = run.wait(LIMIT);
    let gone = Instant::now();
    wait_until("the half minute", LIMIT, || (gone.elapsed() >= AWAY).then_some(()));
    others.expect_alive();

    run.start_again(&serve);
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    assert!(ended.stderr.contains("going on after step"), "{}", ended.stderr);
    others.expect_ended(&run);
    check_whole(&run);

    // Whoever starts it once more learns that nothing is left to do.
    let complete = run.then(&serve, LIMIT);
    complete.expect_code(0);
    assert!(complete.stdout.contains("is complete"), "{}", complete.stdout);
}

#[test]
fn a_coordinator_that_fails_is_waited_for_by_those_that_others_started() {
    let address = free_address();
    let listen = format!("coordinator.listen={address}");
    let more = ["--set", "coordinator.gather_timeout_ms=2000"];
    let serve = serve(&listen, &more);
    let mut run = Run::start(&serve);
    let early = Others::start(&run, &address, &["weak-server-0"]);
    let ended = run.wait(LIMIT);
    ended.expect_code(1);
    let missing = "waiting for actor-0 to register; actor-1 to register; learner-0 to register";
    for part in [missing, "(coordinator.gather_timeout_ms)", "`coordinator serve --run-dir"] {
        assert!(ended.stderr.contains(part), "no `{part}` in:\n{}", ended.stderr);
    }
    early.expect_alive();

    let late = Others::start(&run, &address, &["learner-0", "actor-0", "actor-1"]);
    run.start_again(&serve);
    run.wait(LIMIT).expect_code(0);
    early.expect_ended(&run);
    late.expect_ended(&run);
}

#[test]
fn prometheus_is_told_of_members_that_are_missing_but_not_of_those_that_left() {
    let address = free_address();
    let listen = format!("coordinator.listen={address}");
    // Whoever is gone is missed after three seconds.
    let more = ["--set", "train.steps=5000", "--set", "coordinator.keepalive_ms=300"];
    let run = Run::start(&serve(&listen, &more));
    let names = ["weak-server-0", "learner-0", "actor-0", "actor-1", "actor-2"];
    let others = Others::start(&run, &address, &names);
    let admin = wait_until("an admin port", LIMIT, || admin_address(&run.log("coordinator")));
    let listed = || {
        let (status, text) = http_get(&admin, coordinator::discovery::PATH);
        assert_eq!(status, 200);
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let names = list.iter().map(|target| target["labels"]["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let departed = |how: &str| {
        let all = samples(&http_get(&admin, "/metrics").1, "tandem_coordinator_departures_total");
        let labels = format!("program=\"actor\",how=\"{how}\"}}");
        all.into_iter().find(|(found, _)| *found == labels).unwrap().1
    };
    let all = ["actor-0", "actor-1", "actor-2", "learner-0", "weak-server-0"];
    let listed_all = || {
        let mut names = listed();
        names.sort();
        (names == all).then_some(())
    };
    wait_until("all members on the list", LIMIT, listed_all);
    run.wait_for_steps(1, LIMIT);

    others.signal("actor-1", Signal::SIGTERM);
    wait_until("the one that left to be off the list", LIMIT, || {
        (!listed().contains(&"actor-1".to_owned())).then_some(())
    });
    assert_eq!((departed("ordered"), departed("lost")), (1.0, 0.0));
    others.signal("actor-2", Signal::SIGKILL);
    wait_until("the loss of the other", LIMIT, || (departed("lost") == 1.0).then_some(()));
    assert!(listed().contains(&"actor-2".to_owned()), "a minute is not over");
    let newcomer = Others::start(&run, &address, &["actor-2"]);
    let step = run.steps() + 1;
    run.wait_for_steps(step, LIMIT);
    newcomer.expect_alive();
    let twice = || listed().iter().filter(|name| *name == "actor-2").count();
    assert_eq!(twice(), 1);
}

#[test]
fn a_run_below_its_least_actors_waits_and_says_so_and_processes_need_no_numbers() {
    let address = free_address();
    let listen = format!("coordinator.listen={address}");
    let mut run = Run::start(&serve(&listen, &["--set", "coordinator.actors_min=2"]));
    let names = ["weak-server-any", "learner-any", "actor-any", "actor-other"];
    let others = Others::start(&run, &address, &names);
    run.wait_for_steps(2, LIMIT);
    // Else the run might end before the actor is missed.
    others.signal("learner-any", Signal::SIGSTOP);
    others.signal("actor-other", Signal::SIGKILL);
    let dir = run.dir();
    let status = || {
        let coordinator = Programs::get().path("coordinator");
        let shown = Command::new(coordinator).arg("status").arg(&dir).output().unwrap();
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    let shows = |part: &str| {
        wait_until(part, LIMIT, || Some(status()).filter(|shown| shown.contains(part)))
    };
    shows("2 actors (coordinator.actors_min)");
    others.signal("learner-any", Signal::SIGCONT);
    let shown = shows("more groups of step");
    for part in ["training, step", "weak-server-0  heard", "2 actors", "\nactor-"] {
        assert!(shown.contains(part), "no `{part}` in:\n{shown}");
    }
    let steps = run.steps();
    let text = std::fs::read_to_string(dir.join("processes.json")).unwrap();
    let processes: serde_json::Value = serde_json::from_str(&text).unwrap();
    let healthy = |admin: &str| {
        let coordinator = Programs::get().path("coordinator");
        let asked = Command::new(coordinator).args(["healthcheck", admin]).output().unwrap();
        (asked.status.code(), String::from_utf8_lossy(&asked.stdout).into_owned())
    };
    for process in processes.as_array().unwrap() {
        let (name, admin) = (&process["name"], process["admin"].as_str().unwrap());
        assert_eq!(healthy(admin), (Some(0), "healthy\n".to_owned()), "{name}");
    }
    assert_eq!(healthy("127.0.0.1:1").0, Some(1));

    let newcomer = Others::start(&run, &address, &["actor-any"]);
    run.wait_for_steps(steps + 1, LIMIT);
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    for told in ["waiting for actors: 1 of at least 2 are here", "there are enough actors again"] {
        assert!(ended.stderr.contains(told), "no `{told}` in:\n{}", ended.stderr);
    }
    newcomer.expect_ended(&run);
    check_whole(&run);
    let over = run.then(&["status", "{dir}"], LIMIT);
    over.expect_code(1);
    assert!(over.stderr.contains("no run is under way"), "{}", over.stderr);
}
