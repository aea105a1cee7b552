// nostr-tools' side of Negentropy, without a relay (driver.mjs): one session is one reconciliation.

import { nip77 } from "nostr-tools"
import { answer } from "./driver.mjs"

await answer({
  /** Take the client's items, [created_at, id in hex] each; return its first frame. */
  initiate(session, { items, limit }) {
    const storage = new nip77.NegentropyStorageVector()
    for (const [time, id] of items) storage.insert(time, id)
    storage.seal()
    session.negentropy = new nip77.Negentropy(storage, limit)
    return session.negentropy.initiate()
  },

  /** Take the server's frame; return the next one (null at the end), and the ids of the differences. */
  reconcile(session, { frame }) {
    const have = []
    const need = []
    const next = session.negentropy.reconcile(frame, (id) => have.push(id), (id) => need.push(id))
    return { next, have, need }
  },
})
