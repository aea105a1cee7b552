"""Groups that the relay keeps (NIP-29): their state, who may change it, and what the relay says of it.

Pure: records in, records and events out. `relay.features.nip29` joins it to the relay.
"""
