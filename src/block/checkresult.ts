/** What the checks of all formats find, by the names of `qemu-img check --output=json`. */

/** What a check found. */
export interface CheckResult {
  'image-end-offset': number
  'total-clusters': number
  'allocated-clusters': number
  'fragmented-clusters': number
  'compressed-clusters': number
  corruptions: number
  leaks: number
  'corruptions-fixed': number
  'leaks-fixed': number
  'check-errors': number
  /** What is wrong, a sentence each; the first {@link MAX_MESSAGES}. */
  messages: string[]
}

/** Most messages that a result keeps. */
export const MAX_MESSAGES = 1000
