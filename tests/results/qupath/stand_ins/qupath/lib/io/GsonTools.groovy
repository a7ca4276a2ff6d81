package qupath.lib.io

import groovy.json.JsonSlurper

class GsonTools {
    static GsonTools getInstance() { new GsonTools() }
    Object fromJson(String text, Class kind) { numbers(new JsonSlurper().parseText(text)) }

    /** Every number as a double, as Gson reads them into a map. */
    static Object numbers(Object value) {
        if (value instanceof Map)
            return value.collectEntries { key, inner -> [key, numbers(inner)] }
        if (value instanceof List)
            return value.collect { numbers(it) }
        return value instanceof Number ? value as Double : value
    }
}
