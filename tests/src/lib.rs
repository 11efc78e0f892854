//! What the tests of `hotadd.sys` share.
