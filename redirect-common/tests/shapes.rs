//! Bytes by chance, most of them near a frame that means something: what must hold of the parser holds of them all. `fuzz/` does the same
//! with bytes that it finds out to lead further.

mod shape;

/// Frames of the kinds that the law tells apart, to begin from: TCP, UDP, an ICMP error about TCP, a later fragment, tags, IPv6.
const SEEDS: [&str; 6] = [
    "020000000001020000000002 0800 45000028000140004006000001020304050607081f90005000000000000000005002ffff00000000",
    "020000000001020000000002 0800 4500001c0001400040110000010203040506070800350035000800000102030405060708090a0b0c0d0e",
    "020000000001020000000002 0800 45000038000100004001000005060708010203040301000000000000 \
     45000028000140003f06000001020304050607081f90005000000000",
    "020000000001020000000002 0800 450000280001200140060000010203040506070800000000000000000000000000000000000000000000",
    "020000000001020000000002 8100 0001 8100 0002 0800 4600002c00014000400600000102030405060708010101001f900050000000000000",
    "020000000001020000000002 86dd 60000000001c0040fe800000000000000000000000000001fe800000000000000000000000000002 \
     060000000000000000500051000000000000000050020000",
];
/// Of each seed.
const TRIES: usize = 40_000;
/// Bytes at the beginning among which most changes are: those that say what follows.
const HEAD: usize = 64;

#[test]
fn every_shape_is_answered() {
    let mut random = Random(1);
    for seed in SEEDS.map(bytes) {
        shape::hold(&seed);
        for _ in 0..TRIES {
            let mut frame = seed.clone();
            for _ in 0..random.below(4) {
                let at = random.below(frame.len().min(HEAD));
                frame[at] = u8::try_from(random.below(256)).unwrap_or_default();
            }
            frame.truncate(frame.len() - random.below(3) / 2 * random.below(frame.len()));
            let begin = random.below(2) * frame.len().min(14);
            shape::hold(&frame);
            shape::hold(&frame[begin..]);
        }
    }
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.chars().filter_map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Xorshift64 (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit.max(1)
    }
}
