// nostr-tools driven by the tests: SimplePool, as web clients use it.

import { getToken } from "nostr-tools/nip98"
import { SimplePool, useWebSocketImplementation } from "nostr-tools/pool"
import { finalizeEvent } from "nostr-tools/pure"
import { hexToBytes } from "nostr-tools/utils"
import WebSocket from "ws"
import { Arrivals, answer } from "./driver.mjs"

useWebSocketImplementation(WebSocket)

function listen(session, filter) {
  const arrivals = new Arrivals()
  const subscription = session.pool.subscribe([session.url], filter, {
    onauth: session.onauth,
    onevent: (event) => arrivals.event(event),
    // The pool says EOSE before it says CLOSED, in one breath.
    oneose: () => queueMicrotask(() => arrivals.eose()),
    onclose: ([{ reason }]) => arrivals.closed(reason),
  })
  return { arrivals, subscription }
}

await answer({
  async connect(session, { url, secret, authenticate }) {
    session.url = url
    session.secret = hexToBytes(secret)
    session.pool = new SimplePool({ enableReconnect: true })
    session.pool.idleTimeout = 0
    if (authenticate) {
      session.onauth = async (template) => finalizeEvent(template, session.secret)
      session.pool.automaticallyAuth = () => session.onauth
    }
    const relay = await session.pool.ensureRelay(url)
    // It waits ten seconds by default; the tests need not.
    relay.resubscribeBackoff = [100]
  },

  async sign(session, { event }) {
    return finalizeEvent(event, session.secret)
  },

  async publish(session, { event }) {
    try {
      const reason = await session.pool.publish([session.url], event, { onauth: session.onauth })[0]
      return { accepted: true, reason }
    } catch (error) {
      return { accepted: false, reason: error.message }
    }
  },

  async fetch(session, { filter }) {
    const { arrivals, subscription } = listen(session, filter)
    const events = await arrivals.end
    await subscription.close()
    return events
  },

  async count(session, { filter }) {
    const relay = await session.pool.ensureRelay(session.url)
    return await relay.count([filter], {})
  },

  async countMany(session, { relays, target, directive }) {
    return await session.pool.countMany(relays, target, directive)
  },

  async subscribe(session, { name, filter }) {
    const { arrivals } = listen(session, filter)
    session.live.set(name, arrivals)
    return await arrivals.end
  },

  async next(session, { name }) {
    return await session.live.get(name).next()
  },

  async manage(session, { url, method, params }) {
    const call = { method, params }
    const Authorization = await getToken(url, "POST", (event) => finalizeEvent(event, session.secret), true, call)
    const headers = { Authorization, "Content-Type": "application/nostr+json+rpc" }
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(call) })
    return { status: response.status, answer: await response.json() }
  },

  async disconnect(session) {
    session.pool.destroy()
  },
})
