#![no_main]

use carillon_pictures::film::{BoxHead, forget_place, is_in_boxes, seems_to_tell_place};

libfuzzer_sys::fuzz_target!(|rest: &[u8]| {
    is_in_boxes(rest);
    seems_to_tell_place(rest);
    let _ = BoxHead::read(rest);
    for kind in [b"moov", b"udta", b"meta", b"uuid"] {
        let mut film = [&(rest.len() as u32 + 8).to_be_bytes(), &kind[..], rest].concat();
        if forget_place(&mut film).is_ok() {
            assert_eq!(film.len(), rest.len() + 8);
            assert_eq!(forget_place(&mut film), Ok(false), "once is enough");
        }
    }
});
