package qupath.lib.io

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import qupath.lib.scripting.Thing

class PathIO {
    static enum GeoJsonExportOptions { PRETTY_JSON, EXCLUDE_MEASUREMENTS, FEATURE_COLLECTION }

    static List readObjectsFromGeoJSON(InputStream stream) {
        new JsonSlurper().parse(stream, 'UTF-8').features.collect { new Thing(feature: it) }
    }

    static void exportObjectsAsGeoJSON(OutputStream stream, Collection objects, GeoJsonExportOptions... options) {
        assert options == [GeoJsonExportOptions.FEATURE_COLLECTION] as GeoJsonExportOptions[]
        def text = JsonOutput.toJson([type: 'FeatureCollection', features: objects.collect { it.feature }])
        stream.write(text.getBytes('UTF-8'))
    }
}
