//! Programs of two versions.

use std::process::Stdio;

use tests::Programs;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::LIMIT;
use crate::raw::answer_always;

const OTHER: &str = "9.9.9, wire revision 77";

#[test]
fn row_26_an_actor_of_another_version_ends_and_names_both() {
    let actor = Programs::get().path("actor");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let output = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Field 2 of a registration's reply, as text.
        let reply = [&[0x12, OTHER.len() as u8], OTHER.as_bytes()].concat();
        let actor = async {
            let mut command = Command::new(actor);
            command.args(["--coordinator", &address]).stdin(Stdio::null()).output().await.unwrap()
        };
        let actor = tokio::time::timeout(LIMIT, actor);
        tokio::select! {
            output = actor => output.expect("the actor ends"),
            () = answer_always(listener, reply) => unreachable!("it waits for the actor's end"),
        }
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(OTHER) && text.contains(&proto::version()), "{text}");
    assert!(text.contains("build all programs together"), "{text}");
}
