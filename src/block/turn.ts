/** Requests that a protocol collects, to hand them in together. */

const submitters = new Set<() => void>()
let kicked = 0

/** Registers what hands in a protocol's collected requests; it is also called when there are none. */
export function onKick(submit: () => void): void {
  submitters.add(submit)
}

/**
 * Hands in what was collected. Without it that happens when the turn of the event loop ends; but an emulator's turn is a
 * millisecond of guest, so a device calls it when it has taken all that its queue held.
 */
export function kick(): void {
  kicked++
  for (const submit of submitters) submit()
}

/** How often {@link kick} was called: what came between two of them was all that some device's queue held. */
export function kicks(): number {
  return kicked
}
