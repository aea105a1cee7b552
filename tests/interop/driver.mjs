// What the client scripts share: a line protocol on stdin and stdout, and the order of live events.
//
// One JSON object a line in: {"call": verb, "as": session, ...arguments}. One a line out: {"result": …} or
// {"error": text}. Calls run one after another. Libraries that print are sent to stderr.

import { createInterface } from "node:readline"

console.log = console.info = console.debug = console.error

const DEADLINE_MS = 15_000

/** Answer each line of stdin by the verb it names: verbs[call](session, arguments). */
export async function answer(verbs) {
  const sessions = new Map()
  for await (const line of createInterface({ input: process.stdin })) {
    const { call, as, ...given } = JSON.parse(line)
    let reply
    try {
      if (!sessions.has(as)) sessions.set(as, { live: new Map() })
      reply = { result: (await within(verbs[call](sessions.get(as), given), call)) ?? null }
    } catch (error) {
      reply = { error: String(error?.message ?? error) }
    }
    process.stdout.write(JSON.stringify(reply) + "\n")
  }
  process.exit(0)
}

/** Reject when the promise takes longer than the deadline. */
function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no answer in ${DEADLINE_MS} ms`)), DEADLINE_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** The events of one subscription: those before EOSE (or CLOSED, which rejects), and then one by one. */
export class Arrivals {
  constructor() {
    this.stored = []
    this.live = []
    this.eosed = false
    this.waiting = null
    this.end = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }))
  }

  event(event) {
    if (!this.eosed) return this.stored.push(event)
    this.live.push(event)
    this.waiting?.()
  }

  eose() {
    this.eosed = true
    this.resolve(this.stored)
  }

  closed(reason) {
    this.reject(new Error(reason))
  }

  async next() {
    while (this.live.length === 0) await new Promise((resolve) => (this.waiting = resolve))
    return this.live.shift()
  }
}
