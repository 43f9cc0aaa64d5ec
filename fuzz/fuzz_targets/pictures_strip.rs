#![no_main]

use carillon_pictures::{Format, strip, tells_place};

const BEGINS: [&[u8]; 4] = [b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a"];

libfuzzer_sys::fuzz_target!(|rest: &[u8]| {
    for (format, begin) in [Format::Jpeg, Format::Png, Format::Webp, Format::Gif].into_iter().zip(BEGINS) {
        let picture = [begin, rest].concat();
        tells_place(&picture);
        if let Ok(once) = strip(format, &picture) {
            assert_eq!(strip(format, &once).as_ref(), Ok(&once), "{format:?}: once is enough");
        }
    }
});
