/** Turns of the event loop, and requests that a protocol collects to hand them in together. */

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

/** Calls back in the event loop's next turn. */
export const nextTurn: (callback: () => void) => void =
  typeof setImmediate === 'function' ? (callback) => void setImmediate(callback) : byMessage()

/** In a browser a message comes at once, a timeout after 4 ms, and after a second in a page that is not shown. */
function byMessage(): (callback: () => void) => void {
  const waiting: (() => void)[] = []
  const { port1, port2 } = new MessageChannel()
  port1.onmessage = () => waiting.shift()?.()
  return (callback) => {
    waiting.push(callback)
    port2.postMessage(0)
  }
}
