//! Who may call.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The digest of the bearer token; the token itself is not kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Of this text, without white space about it; `None` when nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Sha256::digest(text.as_bytes()).into()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Lets calls with the token pass; all calls, when there is none.
#[derive(Debug, Clone)]
pub struct Auth {
    pub token: Option<Token>,
}

impl Interceptor for Auth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match &self.token {
            Some(token) if !is_granted(token, request.metadata()) => Err(Status::unauthenticated(
                "this coordinator wants a token: set SWEEP_TOKEN to the one it was started with",
            )),
            _ => Ok(request),
        }
    }
}

fn is_granted(token: &Token, metadata: &MetadataMap) -> bool {
    let Some(header) = metadata.get("authorization") else { return false };
    let Some((scheme, given)) = header.to_str().ok().and_then(|header| header.split_once(' ')) else {
        return false;
    };
    // Digests have one length, and comparing them takes one time, whatever was given.
    let given: [u8; 32] = Sha256::digest(given.trim().as_bytes()).into();
    scheme.eq_ignore_ascii_case("bearer") && bool::from(token.0.ct_eq(&given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(token: Option<&str>, header: Option<&str>) -> bool {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        Auth { token: token.and_then(Token::new) }.call(request).is_ok()
    }

    #[test]
    fn only_the_token_passes() {
        assert!(call(None, None));
        assert!(call(Some("s3cret"), Some("Bearer s3cret")));
        assert!(call(Some(" s3cret\n"), Some("bearer s3cret")));
        assert!(!call(Some("s3cret"), None));
        for wrong in ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret"] {
            assert!(!call(Some("s3cret"), Some(wrong)), "{wrong}");
        }
        assert!(Token::new(" \n").is_none());
        assert_eq!(format!("{:?}", Token::new("s3cret")), "Some(Token(…))");
    }
}
