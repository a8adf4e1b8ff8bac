"""Images in shards, near or far: what lies where (`index`), fetched and kept (`remote`, `store`), read window by window (`stream`,
`windows`)."""
