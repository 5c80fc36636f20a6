//! How a coordinator is reached: its address, whom to trust there, and the token that every call carries.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};
use tonic::{Request, Status};

/// Why no coordinator can be reached with what was given.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(
        "`{server}` is no address of a coordinator: {why}; give it as http://HOST:PORT or https://HOST:PORT by --server or \
         SWEEP_SERVER"
    )]
    Address { server: String, why: &'static str },
    #[error("the certificate file {} cannot be read ({source}); --ca or SWEEP_CA names it", file.display())]
    ReadCa { file: PathBuf, source: std::io::Error },
    #[error("the certificate file {} holds no certificate in PEM form; --ca or SWEEP_CA names it", file.display())]
    NoCertificate { file: PathBuf },
    #[error("TLS cannot be set up: {why}")]
    Tls { why: String },
    #[error("SWEEP_TOKEN holds characters that cannot be sent; a token is visible ASCII")]
    Token,
}

/// A coordinator's address: `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT` alone, which is taken as http.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// # Errors
    /// [`DialError::Address`].
    pub fn new(server: &str) -> Result<Self, DialError> {
        let invalid = |why| DialError::Address { server: server.to_owned(), why };
        let text = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let uri: Uri = text.parse().map_err(|_| invalid("it cannot be read"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(invalid("its scheme is neither http nor https"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(invalid("it names no host"));
        }
        if uri.port_u16().is_none() {
            return Err(invalid("it names no port"));
        }
        Ok(Self(uri))
    }

    pub fn is_encrypted(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    pub fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Not connected yet. Over https the coordinator has to show a certificate for its host that is signed by one in
    /// the PEM file `ca`, or, without one, by an authority that this machine trusts.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn endpoint(&self, ca: Option<&Path>) -> Result<Endpoint, DialError> {
        let endpoint = Endpoint::from(self.0.clone());
        if !self.is_encrypted() {
            return Ok(endpoint);
        }
        // Other parts of a program may bring a provider of their own; without a choice the two would be an error.
        _ = rustls::crypto::ring::default_provider().install_default();
        let config = match ca {
            Some(file) => ClientTlsConfig::new().ca_certificate(certificates(file)?),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint.tls_config(config).map_err(|error| DialError::Tls { why: root_cause(&error) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

fn certificates(file: &Path) -> Result<Certificate, DialError> {
    let pem = std::fs::read(file).map_err(|source| DialError::ReadCa { file: file.to_owned(), source })?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(DialError::NoCertificate { file: file.to_owned() });
    }
    Ok(Certificate::from_pem(pem))
}

/// Puts the token, if there is one, on every call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// Space around a token is no part of it, and an empty one is none.
    ///
    /// # Errors
    /// [`DialError::Token`].
    pub fn new(token: Option<&str>) -> Result<Self, DialError> {
        let Some(token) = token.map(str::trim).filter(|token| !token.is_empty()) else {
            return Ok(Self(None));
        };
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| DialError::Token)?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }

    pub fn has_token(&self) -> bool {
        self.0.is_some()
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// The innermost message, "connection refused" rather than "transport error", and the mend where TLS is the matter.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let cause = cause.to_string().to_lowercase();
    if cause.starts_with("invalid peer certificate") {
        format!("{cause}: name the certificates to trust by --ca or SWEEP_CA")
    } else if ["http2 error", "invalid size", "invalidcontenttype"].iter().any(|sign| cause.contains(sign)) {
        format!("{cause}: is http:// used where TLS is spoken, or https:// where it is not?")
    } else {
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_coordinator_can_have_are_refused() {
        for bad in ["ftp://node:1", "node", "http://node", "https://node", "http://", "a b"] {
            let error = Address::new(bad).expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert_eq!(Address::new("node:7741").expect("host and port").to_string(), "http://node:7741");
        assert!(Address::new("https://node:7741").expect("https").is_encrypted());
    }

    #[test]
    fn loopback_is_known_by_name_and_by_number() {
        for (server, expected) in [
            ("http://localhost:1", true),
            ("http://127.8.0.1:1", true),
            ("https://[::1]:1", true),
            ("http://10.0.0.1:1", false),
            ("http://node:1", false),
        ] {
            assert_eq!(Address::new(server).expect(server).is_loopback(), expected, "{server}");
        }
    }

    #[test]
    fn tokens_must_fit_into_a_header() {
        assert!(!Bearer::new(None).expect("no token").has_token());
        assert!(!Bearer::new(Some(" \n")).expect("an empty token is none").has_token());
        assert!(Bearer::new(Some("s3cret\n")).expect("a newline at the end is trimmed").has_token());
        assert!(matches!(Bearer::new(Some("a\nb")), Err(DialError::Token)));
    }

    #[test]
    fn a_certificate_file_must_hold_a_certificate() {
        let address = Address::new("https://node:7741").expect("https");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(matches!(address.endpoint(Some(&here)), Err(DialError::NoCertificate { .. })));
        let nowhere = Path::new("no such file");
        assert!(matches!(address.endpoint(Some(nowhere)), Err(DialError::ReadCa { .. })));
    }
}
