//! What a developer of hotadd runs.

fn main() {}
