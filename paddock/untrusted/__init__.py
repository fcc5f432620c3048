"""Read content that others can write: files of a shared volume, objects of a bucket, answers of the Hub, local files.

    content         the one exception, for content that cannot be used
    files           open and read regular files, and list directories, within bounds
    json_text       the JSON parser, with bounds on size, depth, numbers and the count of values
    fields          typed values out of a parsed document
    body            the bytes of an HTTP answer, bounded after decompression and by a deadline

Nothing here knows what a document means. Who reads one decides what an unusable one blocks: its own model or note, and
nothing else.
"""
