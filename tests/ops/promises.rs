//! stub
use super::Test;
pub(super) fn tests() -> Vec<Test> {
    vec![]
}
