//! ChaCha20-Poly1305 (RFC 8439) as WireGuard uses it, in a form that the eBPF verifier accepts: the
//! same source seals and opens in the kernel's programs and on the host.
//!
//! The nonce is four zero bytes and a little-endian packet counter; there is no additional data.
//!
//! The shape follows from what the verifier can follow, and each rule was paid for:
//! - Loops have constant bounds and leave by `break` on an index whose origin is hidden from the
//!   compiler ([`hide`]), or it would rewrite them to bounds that are known at run time only.
//! - The length lies in memory and is read anew by each phase. What the verifier learns about a
//!   length in one loop would otherwise be multiplied with what it learns in the next.
//! - Text is treated in whole 64-byte blocks, so the buffer is larger than the longest text.
//! - Nothing is indexed in a way that could panic.

pub mod chacha;
pub mod poly;

pub use chacha::BLOCK_LEN;
use chacha::State;
use poly::Tag;

/// Length of the tag behind each sealed text.
pub const TAG_LEN: usize = 16;
/// Where the text starts in the buffer: behind key stream block 0, which is the Poly1305 key.
pub const TEXT: usize = BLOCK_LEN;

/// Hides a value's origin from the compiler, at the cost of one move.
///
/// An empty assembly block would do the same, but then two lines of source belong to one
/// instruction, which the kernel refuses.
#[inline(always)]
pub fn hide(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: moves a register to itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(value)
}

/// A key, as the words that the cipher computes with.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Key(pub [u32; 8]);

impl Key {
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut key = Self::default();
        for (word, bytes) in key.0.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        key
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why a sealed text was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Longer than the memory allows.
    TooLong,
    /// Not sealed with this key and counter, or changed since.
    NotAuthentic,
}

/// Work memory: in the programs one element of a per-CPU map, on the host anything.
///
/// `SIZE` is the buffer's length, a multiple of 64; the longest text is [`Self::TEXT_MAX`].
#[repr(C, align(8))]
pub struct Memory<const SIZE: usize> {
    state: State,
    len: u64,
    tag: Tag,
    buffer: [u8; SIZE],
}

impl<const SIZE: usize> core::fmt::Debug for Memory<SIZE> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl<const SIZE: usize> Memory<SIZE> {
    pub const EMPTY: Self = Self { state: State([0; 16]), len: 0, tag: Tag(0, 0), buffer: [0; SIZE] };

    /// The longest text: block 0 lies before it, and tag or length block behind.
    pub const TEXT_MAX: usize = {
        assert!(SIZE.is_multiple_of(BLOCK_LEN) && SIZE > 2 * BLOCK_LEN);
        SIZE - 2 * BLOCK_LEN
    };

    /// Blocks of key stream over the whole buffer, block 0 included: the last holds no text.
    const BLOCKS: u64 = (SIZE / BLOCK_LEN - 1) as u64;

    /// Sets the length of the text; false where it is too long.
    #[inline(always)]
    pub fn set_text_len(&mut self, len: u64) -> bool {
        self.len = len;
        len <= Self::TEXT_MAX as u64
    }

    /// The length of the text, read anew, with a bound that the verifier sees.
    #[inline(always)]
    pub fn text_len(&self) -> Option<u64> {
        // SAFETY: a field of a valid reference. Volatile, so that it is the memory that is read.
        let len = hide(unsafe { core::ptr::read_volatile(&raw const self.len) });
        if len > Self::TEXT_MAX as u64 { None } else { Some(len) }
    }

    /// Where the text starts. Behind it are at least [`Self::TEXT_MAX`] + 64 bytes, before it 64.
    #[inline(always)]
    pub fn text(&mut self) -> *mut u8 {
        // SAFETY: TEXT_MAX asserts that the buffer is longer than one block.
        unsafe { self.buffer.as_mut_ptr().add(TEXT) }
    }

    /// The room for the text and what follows it, for the host, which has slices.
    #[cfg(not(target_arch = "bpf"))]
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[TEXT..]
    }

    /// Turns the text into ciphertext and puts the tag behind it; false where it is too long.
    #[inline(always)]
    pub fn seal(&mut self, key: &Key, counter: u64) -> bool {
        self.set_up(key, counter);
        if !self.stream(0, true) || !self.authenticate() {
            return false;
        }
        let Some(len) = self.text_len() else { return false };
        let Tag(low, high) = self.tag;
        // SAFETY: `len` is at most TEXT_MAX, behind which are 64 bytes.
        unsafe {
            let end = self.text().add(len as usize);
            write_u64(end, low);
            write_u64(end.add(8), high);
        }
        true
    }

    /// Turns ciphertext, which the tag follows, into text.
    ///
    /// The tag is compared in constant time, before a byte is deciphered.
    ///
    /// # Errors
    /// The ciphertext stays as it was.
    #[inline(always)]
    pub fn open(&mut self, key: &Key, counter: u64) -> Result<(), OpenError> {
        self.set_up(key, counter);
        let Some(len) = self.text_len() else { return Err(OpenError::TooLong) };
        // SAFETY: `len` is at most TEXT_MAX, behind which are 64 bytes.
        let (low, high) = unsafe {
            let end = self.text().add(len as usize);
            (read_u64(end), read_u64(end.add(8)))
        };
        if !self.stream(0, false) || !self.authenticate() {
            return Err(OpenError::TooLong);
        }
        if (self.tag.0 ^ low) | (self.tag.1 ^ high) != 0 {
            return Err(OpenError::NotAuthentic);
        }
        if !self.stream(1, true) {
            return Err(OpenError::TooLong);
        }
        Ok(())
    }

    /// The cipher's state for one packet; block 0 of the buffer becomes zero.
    #[inline(always)]
    fn set_up(&mut self, key: &Key, counter: u64) {
        self.state = State::new(key, counter);
        let first = self.buffer.as_mut_ptr().cast::<u64>();
        let mut word = 0;
        while word < BLOCK_LEN / 8 {
            // SAFETY: inside the first block; the structure aligns the buffer to 8 bytes. Volatile, or the
            // compiler makes a call to `memset` of it, which in a program goes byte by byte.
            unsafe { first.add(word).write_volatile(0) };
            word += 1;
        }
    }

    /// Adds the key stream from block `from` on to the buffer: to the end of the text, or without
    /// `text` to block 0 alone.
    #[inline(never)]
    fn stream(&mut self, from: u64, text: bool) -> bool {
        let Some(len) = self.text_len() else { return false };
        let end = if text { TEXT as u64 + len } else { TEXT as u64 };
        let start = self.buffer.as_mut_ptr();
        let mut index = from;
        while index < Self::BLOCKS {
            let block = hide(index);
            if block * BLOCK_LEN as u64 >= end {
                break;
            }
            self.state.set_block(block as u32);
            // SAFETY: block < BLOCKS, so it lies in the buffer, aligned to 8 bytes.
            unsafe { self.state.add_block(start.add(block as usize * BLOCK_LEN).cast()) };
            index = block + 1;
        }
        true
    }

    /// Computes the tag of the ciphertext with the Poly1305 key in block 0.
    #[inline(never)]
    fn authenticate(&mut self) -> bool {
        let Some(len) = self.text_len() else { return false };
        let text = self.text();
        // SAFETY: `len` is at most TEXT_MAX, behind which are 64 bytes: padding takes up to 15 of
        // them and the length block 16. But the tag of a text to be opened stands there; its reader
        // has taken it out before.
        unsafe {
            let padded = pad(text, len);
            let lengths = text.add(padded as usize);
            write_u64(lengths, 0);
            write_u64(lengths.add(8), len);
            self.tag = poly::authenticate::<SIZE>(self.buffer.as_ptr().cast(), text, padded + 16);
        }
        true
    }
}

/// Zeroes what follows `len` bytes of text up to the next multiple of 16, and returns that.
///
/// # Safety
/// `text` is valid for `len` bytes and 16 more.
#[inline(always)]
pub(crate) unsafe fn pad(text: *mut u8, len: u64) -> u64 {
    let rest = len & 15;
    if rest != 0 {
        // SAFETY: the caller's promise; `len & !15` is at most `len`.
        unsafe {
            let last = text.add((len & !15) as usize);
            let (low, high) = (read_u64(last), read_u64(last.add(8)));
            let kept = (1u64 << ((rest & 7) * 8)).wrapping_sub(1);
            let (low, high) = if rest < 8 { (low & kept, 0) } else { (low, high & kept) };
            write_u64(last, low);
            write_u64(last.add(8), high);
        }
    }
    (len + 15) & !15
}

/// Eight bytes, little-endian, wherever they lie. (The kernels that we run on let programs read
/// unaligned words of a map; `read_unaligned` would become eight loads.)
///
/// # Safety
/// `at` is valid for eight bytes.
#[inline(always)]
pub(crate) unsafe fn read_u64(at: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "bpf")]
    return u64::from_le(unsafe { *at.cast::<u64>() });
    // SAFETY: as above.
    #[cfg(not(target_arch = "bpf"))]
    return u64::from_le(unsafe { at.cast::<u64>().read_unaligned() });
}

/// As [`read_u64`], the other way.
///
/// # Safety
/// `at` is valid for eight bytes.
#[inline(always)]
pub(crate) unsafe fn write_u64(at: *mut u8, value: u64) {
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "bpf")]
    unsafe {
        *at.cast::<u64>() = value.to_le();
    }
    // SAFETY: as above.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        at.cast::<u64>().write_unaligned(value.to_le());
    }
}

#[cfg(test)]
mod tests;
