//! A run whose tracker is of no use. What trackers are told is tested in the coordinator.

use std::net::TcpListener;

use tests::{Run, admin_address, samples, wait_until};

use crate::{LIMIT, small};

#[test]
fn a_server_that_is_not_there_costs_points_and_nothing_else() {
    // A port that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("track.mlflow=http://127.0.0.1:{port}");
    let more = ["--steps", "8", "--set", &address, "--set", "track.queue_records=1"];
    let more = [more.as_slice(), &["--set", "track.tensorboard=auto"]].concat();
    let mut run = Run::start(&small(&more));
    let admin = wait_until("admin address", LIMIT, || admin_address(&run.log("coordinator")));
    let dropped = || {
        let text = tests::try_metrics(&admin)?;
        let found = samples(&text, "tandem_coordinator_track_points_total");
        let labels = "tracker=\"mlflow\",outcome=\"dropped\"}";
        let (_, value) = found.into_iter().find(|(found, _)| *found == labels)?;
        (value > 0.0).then_some(())
    };
    wait_until("dropped points", LIMIT, dropped);
    let ended = run.wait(LIMIT);
    ended.expect_code(0);
    let log = run.log("coordinator");
    assert_eq!(log.matches("a tracker does not take points").count(), 1, "{log}");
    assert_eq!(log.matches("the queue of a tracker is full").count(), 1, "{log}");
    let files = std::fs::read_dir(run.dir().join("tensorboard")).unwrap().count();
    assert_eq!(files, 1, "another tracker does not mind");
}
