//! Each published client against the broker: in one program, since most of a test is waiting for what clients do, and several can wait
//! beside each other.

mod access;
mod demo;
mod go;
mod http;
mod java;
mod loads;
mod matrix;
mod mqadmin;
mod nodejs;
mod ordered;
mod python;
mod rolling;
mod rust;
mod tcp;
mod tcp_consumers;
mod tcp_pop;
mod v1;
