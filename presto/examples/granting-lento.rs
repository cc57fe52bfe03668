//! For trying Presto alone: a Lento that gives the permit to whoever connects, and reads nothing.
//!
//! `cargo run -p presto --example granting-lento -- SOCKET`

#[path = "../tests/lento/mod.rs"]
mod lento;

fn main() {
    let path = std::env::args_os().nth(1).expect("the socket's path is the only argument");
    let listener = lento::listen_at(path.as_ref());
    let mut epoch = 1;
    loop {
        let mut connection = lento::accept(&listener);
        println!("{:?}", connection.hello);
        connection.send(&protocol::Downcall::Grant { epoch });
        epoch += 1;
        while let Some(upcall) = connection.next() {
            println!("{upcall:?}");
        }
    }
}
