//! What must hold after every operation.

/// Panics with the invariants that do not hold.
pub(crate) async fn check(url: &str) {
    let violations = coordinator::store::check::check(url).await.unwrap();
    assert!(violations.is_empty(), "{violations:?}");
}
