//! Huffman code lengths, none longer than a limit: what both deflate and zstd begin a code with.

/// The most symbols of any alphabet here.
pub const MAX_SYMBOLS: usize = 288;

/// Writes the code length of each symbol of `histogram`; 0 for those that do not occur. A lone symbol gets one bit.
pub fn code_lengths(histogram: &[u32], limit: u32, lengths: &mut [u8]) {
    lengths.fill(0);
    let mut symbols = [(0u32, 0u16); MAX_SYMBOLS];
    let mut count = 0;
    for (symbol, &times) in histogram.iter().enumerate() {
        if times > 0 {
            symbols[count] = (times, symbol as u16);
            count += 1;
        }
    }
    let symbols = &mut symbols[..count];
    sort(symbols);
    if count < 2 {
        if let Some(&(_, symbol)) = symbols.first() {
            lengths[symbol as usize] = 1;
        }
        return;
    }
    // Leaves in order, then the nodes made from them, which come in order too.
    let mut weights = [0u32; 2 * MAX_SYMBOLS];
    let mut parents = [0u16; 2 * MAX_SYMBOLS];
    for (weight, &(times, _)) in weights.iter_mut().zip(&*symbols) {
        *weight = times;
    }
    let (mut leaf, mut node) = (0, count);
    let root = 2 * count - 2;
    for made in count..=root {
        for _ in 0..2 {
            let take = if leaf < count && (node >= made || weights[leaf] <= weights[node]) {
                leaf += 1;
                leaf - 1
            } else {
                node += 1;
                node - 1
            };
            weights[made] += weights[take];
            parents[take] = made as u16;
        }
    }
    let mut depths = [0u8; 2 * MAX_SYMBOLS];
    for place in (0..root).rev() {
        depths[place] = depths[parents[place] as usize] + 1;
    }
    shorten(&mut depths[..count], limit);
    for (&(_, symbol), &depth) in symbols.iter().zip(&depths) {
        lengths[symbol as usize] = depth;
    }
}

/// Shell's sort: small, and fast enough for an alphabet.
fn sort(symbols: &mut [(u32, u16)]) {
    for gap in [132, 57, 23, 10, 4, 1] {
        for place in gap..symbols.len() {
            let moved = symbols[place];
            let mut at = place;
            while at >= gap && symbols[at - gap] > moved {
                symbols[at] = symbols[at - gap];
                at -= gap;
            }
            symbols[at] = moved;
        }
    }
}

/// Shortens codes that are too long, and lengthens others so that all fit again. The rarest symbols come first.
fn shorten(depths: &mut [u8], limit: u32) {
    if depths.iter().all(|&depth| u32::from(depth) <= limit) {
        return;
    }
    // In units of the longest code; a complete code is `whole`.
    let whole = 1u32 << limit;
    let mut used = 0;
    for depth in depths.iter_mut() {
        *depth = (*depth).min(limit as u8);
        used += whole >> *depth;
    }
    while used > whole {
        // The rarest of those nearest to the limit that can be longer: it costs least.
        let longer = depths.iter_mut().filter(|depth| u32::from(**depth) < limit).max_by_key(|depth| **depth);
        let Some(depth) = longer else { return };
        *depth += 1;
        used -= whole >> *depth;
    }
    while used < whole {
        // The most frequent of the longest that may be shorter without passing the whole.
        let shorter = depths.iter_mut().filter(|depth| used + (whole >> **depth) <= whole).max_by_key(|depth| **depth);
        let Some(depth) = shorter else { return };
        used += whole >> *depth;
        *depth -= 1;
    }
}
