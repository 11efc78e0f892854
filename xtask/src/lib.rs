//! What a developer of hotadd runs, as a library.
