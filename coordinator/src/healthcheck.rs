//! `coordinator healthcheck`: one question to a process's admin port, for containers and clusters
//! that ask by a command. What healthy means is the process's own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use security::{Blocking, Guard};
use settings::Settings;

use crate::FAILED;
use crate::cli::HealthcheckArgs;
use crate::output::say;

/// An answer is one line; more is not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Returns the exit code: 0 for a process that is healthy, or ready where that is asked.
///
/// # Errors
/// Settings without an address to ask, or a process that does not answer in time.
pub fn healthcheck(args: &HealthcheckArgs) -> anyhow::Result<u8> {
    let settings = args.config.settings()?;
    let address = match &args.admin {
        Some(address) => address.clone(),
        None => own_port(&settings)?,
    };
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let limit = Duration::from_millis(u64::from(settings.limits.connect_timeout_ms));
    let asked = ask(&Guard::open(&settings)?, &address, path, Instant::now() + limit);
    let (good, text) = asked.with_context(|| format!("no answer from {address}{path}"))?;
    say(text.trim_end());
    Ok(if good { 0 } else { FAILED })
}

fn own_port(settings: &Settings) -> anyhow::Result<String> {
    let listen = &settings.admin.listen;
    let mut address: SocketAddr = listen.parse().context("admin.listen")?;
    ensure!(
        address.port() != 0,
        "admin.listen is {listen}, whose port the system chooses: name HOST:PORT, or set a port"
    );
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(address.to_string())
}

/// Whether the answer was yes, and what it said.
fn ask(
    guard: &Guard,
    address: &str,
    path: &str,
    deadline: Instant,
) -> anyhow::Result<(bool, String)> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    ensure!(
        guard.may_connect(host),
        "{host} is another machine and nothing protects the connection: set security.authority"
    );
    let socket = connect(address, deadline)?;
    let mut connection = match guard.client_tls() {
        Some(_) => Blocking::calling(guard, socket)?,
        None => Blocking::plain(socket),
    };
    let bearer = guard.bearer();
    let token = bearer.map(|token| format!("authorization: {token}\r\n")).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{token}\r\n");
    wait_until(&connection, deadline)?;
    connection.write_all(request.as_bytes())?;
    connection.flush()?;
    parse(&read(&mut connection, deadline)?)
}

fn connect(address: &str, deadline: Instant) -> anyhow::Result<TcpStream> {
    let mut fault = None;
    for found in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&found, left(deadline)?) {
            Ok(socket) => return Ok(socket),
            Err(error) => fault = Some(error),
        }
    }
    Err(fault.map_or_else(|| anyhow::anyhow!("the name has no address"), Into::into))
}

fn left(deadline: Instant) -> anyhow::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "the time is over (limits.connect_timeout_ms)");
    Ok(left)
}

fn wait_until(connection: &Blocking, deadline: Instant) -> anyhow::Result<()> {
    let left = left(deadline)?;
    connection.socket().set_read_timeout(Some(left))?;
    connection.socket().set_write_timeout(Some(left))?;
    Ok(())
}

fn read(connection: &mut Blocking, deadline: Instant) -> anyhow::Result<Vec<u8>> {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < ANSWER_BYTES_MAX {
        wait_until(connection, deadline)?;
        match connection.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            // Some servers close without the goodbye of TLS.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

fn parse(answer: &[u8]) -> anyhow::Result<(bool, String)> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("it answered with something else than HTTP");
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let good = head.starts_with("HTTP/1.1 ") && status == "200";
    let body = if body.trim().is_empty() { format!("HTTP status {status}") } else { body.into() };
    Ok((good, body))
}

#[cfg(test)]
mod tests {
    use settings::Settings;

    use super::*;

    #[test]
    fn the_port_of_this_machine_is_asked_unless_the_system_chose_it() {
        let at = |listen: &str| {
            let mut settings = Settings::default();
            settings.admin.listen = listen.to_owned();
            own_port(&settings).map_err(|error| error.to_string())
        };
        assert_eq!(at("0.0.0.0:9100"), Ok("127.0.0.1:9100".to_owned()));
        assert_eq!(at("10.0.0.7:9100"), Ok("10.0.0.7:9100".to_owned()));
        assert!(at("127.0.0.1:0").unwrap_err().contains("whose port the system chooses"));
    }

    #[test]
    fn an_answer_is_yes_or_no_or_no_answer() {
        let parsed = |text: &str| parse(text.as_bytes()).map_err(|error| error.to_string());
        let yes = parsed("HTTP/1.1 200 OK\r\na: b\r\n\r\nhealthy\n");
        assert_eq!(yes, Ok((true, "healthy\n".to_owned())));
        let no = parsed("HTTP/1.1 503 Service Unavailable\r\n\r\nno progress\n");
        assert_eq!(no, Ok((false, "no progress\n".to_owned())));
        assert_eq!(parsed("HTTP/1.1 401 U\r\n\r\n"), Ok((false, "HTTP status 401".to_owned())));
        assert!(parsed("SSH-2.0-x\r\n").unwrap_err().contains("something else than HTTP"));
    }

    #[test]
    fn whoever_keeps_silent_is_given_up_and_nothing_leaves_the_machine_in_plaintext() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let soon = || Instant::now() + Duration::from_millis(50);
        assert!(ask(&Guard::default(), &address, "/healthz", soon()).is_err());
        let error = ask(&Guard::default(), "10.0.0.7:1", "/healthz", soon()).unwrap_err();
        assert!(error.to_string().contains("nothing protects the connection"), "{error}");
    }
}
