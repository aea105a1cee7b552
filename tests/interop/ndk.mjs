// NDK driven by the tests, with the settings its documentation recommends for relays that ask for AUTH.

import NDK, { NDKEvent, NDKPrivateKeySigner, NDKRelayAuthPolicies, NDKSubscriptionCacheUsage } from "@nostr-dev-kit/ndk"
import WebSocket from "ws"
import { Arrivals, answer } from "./driver.mjs"

globalThis.WebSocket = WebSocket

function listen(session, filter, { closeOnEose }) {
  const arrivals = new Arrivals()
  const subscription = session.ndk.subscribe(
    filter,
    { closeOnEose, groupable: false, cacheUsage: NDKSubscriptionCacheUsage.ONLY_RELAY },
    false,
  )
  subscription.on("event", (event) => arrivals.event(event.rawEvent()))
  subscription.on("eose", () => arrivals.eose())
  subscription.on("closed", (_relay, reason) => arrivals.closed(reason))
  subscription.start()
  return arrivals
}

await answer({
  async connect(session, { url, secret, authenticate }) {
    session.ndk = new NDK({
      explicitRelayUrls: [url],
      signer: new NDKPrivateKeySigner(secret),
      enableOutboxModel: false,
      autoConnectUserRelays: false,
    })
    session.relay = session.ndk.pool.getRelay(url, false)
    if (authenticate) session.ndk.relayAuthDefaultPolicy = NDKRelayAuthPolicies.signIn({ ndk: session.ndk })
    const ready = new Promise((resolve) => session.relay.on(authenticate ? "authed" : "connect", resolve))
    // Without a timeout NDK gives up for good when its first attempt to reconnect is refused.
    await session.relay.connect(2_000)
    await session.ndk.connect()
    await ready
  },

  async sign(session, { event }) {
    const signed = new NDKEvent(session.ndk, { ...event, pubkey: "" })
    await signed.sign()
    return signed.rawEvent()
  },

  async publish(session, { event }) {
    try {
      await session.relay.publish(new NDKEvent(session.ndk, event), 10_000)
      // NDK does not show the text of an OK true.
      return { accepted: true, reason: "" }
    } catch (error) {
      return { accepted: false, reason: error.message }
    }
  },

  async fetch(session, { filter }) {
    return await listen(session, filter, { closeOnEose: true }).end
  },

  async count(session, { filter }) {
    return (await session.ndk.count([filter])).count
  },

  async subscribe(session, { name, filter }) {
    const arrivals = listen(session, filter, { closeOnEose: false })
    session.live.set(name, arrivals)
    return await arrivals.end
  },

  async next(session, { name }) {
    return await session.live.get(name).next()
  },

  async disconnect(session) {
    session.relay.disconnect()
  },
})
