//! Rules about what protects connections. Whether the files are there and sound is seen when they
//! are opened.

use crate::schema::Settings;

/// The smallest `limits.header_bytes`: an HTTP server needs as much to read one request.
const HEADER_BYTES_MIN: u32 = 8 << 10;
const HEADER_BYTES_MAX: u32 = 1 << 20;

pub(super) fn faults(s: &Settings, faults: &mut Vec<String>) {
    let security = &s.security;
    let missing = [
        ("certificate", &security.certificate, "key", &security.key),
        ("key", &security.key, "certificate", &security.certificate),
        ("certificate", &security.certificate, "authority", &security.authority),
        ("peer_name", &security.peer_name, "authority", &security.authority),
    ];
    for (given, value, wanted, other) in missing {
        if !value.is_empty() && other.is_empty() {
            faults.push(format!(
                "security.{given} is set but security.{wanted} is empty: give both, or neither \
                 (`coordinator credentials DIR` makes all files)"
            ));
        }
    }
    if security.client_certificates && security.certificate.is_empty() {
        faults.push(
            "security.client_certificates is on but security.certificate is empty: a connection \
             without encryption carries no certificates"
                .to_owned(),
        );
    }
    let header = s.limits.header_bytes;
    if !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&header) {
        faults.push(format!(
            "limits.header_bytes is {header} but must be from {HEADER_BYTES_MIN} to \
             {HEADER_BYTES_MAX}"
        ));
    }
}
