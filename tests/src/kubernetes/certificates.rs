//! The API server's keys: a certificate authority that clients trust, the server's certificate, and the key that signs the
//! tokens of service accounts.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::Cmd;

pub(super) const AUTHORITY: &str = "ca.crt";
pub(super) const SERVER: &str = "server.crt";
pub(super) const SERVER_KEY: &str = "server.key";
pub(super) const TOKENS_KEY: &str = "tokens.key";
const AUTHORITY_KEY: &str = "ca.key";
const DAYS: &str = "2";

/// Makes them in `dir`, for a server at these addresses. Inside a cluster it is also known by its service's names.
pub(super) fn make(dir: &Path, addresses: &[Ipv4Addr]) -> Result<()> {
    let settings = dir.join("openssl.cnf");
    fs::write(&settings, self::settings(addresses)).context("write openssl's settings")?;
    let certificate = |section: &str, name: &str, key: &str, file: &str| {
        let new = Cmd::line("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days").args([DAYS]);
        new.args(["-subj", name, "-extensions", section, "-config"])
            .args([&settings])
            .args(["-keyout"])
            .args([dir.join(key)])
            .args(["-out"])
            .args([dir.join(file)])
    };
    certificate("authority", "/CN=redirect-lab", AUTHORITY_KEY, AUTHORITY).run()?;
    let server = certificate("server", "/CN=kube-apiserver", SERVER_KEY, SERVER);
    server.args(["-CA"]).args([dir.join(AUTHORITY)]).args(["-CAkey"]).args([dir.join(AUTHORITY_KEY)]).run()?;
    Cmd::line("openssl ecparam -name prime256v1 -genkey -noout -out").args([dir.join(TOKENS_KEY)]).run()?;
    Ok(())
}

fn settings(addresses: &[Ipv4Addr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("IP:{address}, ")).collect();
    let addresses = addresses.concat();
    format!(
        "[req]\ndistinguished_name = name\n[name]\n\
         [authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
         subjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth\nauthorityKeyIdentifier = keyid\n\
         subjectAltName = {addresses}DNS:localhost, DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc\n"
    )
}
