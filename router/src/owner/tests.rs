//! What the owner does with each input. `play.rs` is the stage.

mod accounts;
mod borders;
mod contacts;
mod conversations;
mod deliveries;
mod direct;
mod domains;
mod expiring;
mod groups;
mod media;
mod messages;
mod play;
mod presence_order;
mod privacy;
mod references;
mod reports;
mod scheduled;
