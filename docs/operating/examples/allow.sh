#!/bin/sh
# A write plugin: takes events only of the keys that are named as arguments (64 hex digits each).

while read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"event":{"id":"\([0-9a-f]*\)".*/\1/p')
    author=$(printf '%s' "$line" | sed -n 's/.*"pubkey":"\([0-9a-f]*\)".*/\1/p')
    case " $* " in
        *" $author "*) printf '{"id":"%s","action":"accept"}\n' "$id" ;;
        *) printf '{"id":"%s","action":"reject","msg":"blocked: not on the list"}\n' "$id" ;;
    esac
done
