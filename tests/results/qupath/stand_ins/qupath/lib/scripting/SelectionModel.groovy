package qupath.lib.scripting

class SelectionModel {
    List selected

    Set getSelectedObjects() { selected as LinkedHashSet }
}
