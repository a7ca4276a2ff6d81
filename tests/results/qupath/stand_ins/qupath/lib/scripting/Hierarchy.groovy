package qupath.lib.scripting

class Hierarchy {
    List all = []
    List selected = []

    Collection getDetectionObjects() { all.findAll { !it.isAnnotation() } }
    Collection getAnnotationObjects() { all.findAll { it.isAnnotation() } }
    boolean addObjects(Collection objects) { all.addAll(objects) }
    void removeObjects(Collection objects, boolean keepChildren) { all.removeAll { known -> objects.any { it.is(known) } } }
    SelectionModel getSelectionModel() { new SelectionModel(selected: selected) }
}
