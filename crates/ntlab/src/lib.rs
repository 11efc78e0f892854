//! A machine that runs WDM driver images on Linux.
