package qupath.lib.scripting

class Thing {
    Map feature

    UUID getID() { UUID.fromString(feature.id) }
    boolean isAnnotation() { feature.properties.objectType == 'annotation' }
    String getPathClass() { feature.properties.classification?.name }
    boolean hasROI() { true }
    Shape getROI() { new Shape(points: feature.geometry.coordinates[0]) }
}
