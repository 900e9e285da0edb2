/** The image formats: this list is all there is to adding one. */
import type { FormatDriver } from '../format.ts'
import { qcow } from './qcow.ts'
import { qcow2 } from './qcow2/index.ts'
import { qed } from './qed/index.ts'
import { raw } from './raw.ts'

/** Raw fits anything: last. */
export const formats: readonly FormatDriver[] = [qcow2, qed, qcow, raw]
