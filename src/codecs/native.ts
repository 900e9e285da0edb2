// What a host may put in place of the module, through `#codecs-native`.

import type { Codecs } from './contract.ts'

/** The codecs that the host does faster, with the same results. */
export type Native = Partial<Codecs>
