// What a browser does better than the module: nothing that is synchronous.

import type { Native } from '../native.ts'

/** No codec of the host is used. */
export const native: Native = {}
