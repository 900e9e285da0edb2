// What Node does faster than the module.

import type { Native } from '../native.ts'

/** The codecs of Node that are faster here. */
export const native: Native = {}
