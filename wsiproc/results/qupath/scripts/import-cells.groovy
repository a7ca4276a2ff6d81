/*
 * Imports the cells of the open image from the files that `wsiproc qupath` wrote. For QuPath 0.4 to 0.7.
 *
 * Run it in the script editor. Where annotations are selected, it imports the cells whose centre lies in one of them,
 * else all cells. Cells that are there already, by their id, are replaced: changes made to them by hand are lost.
 */
import static qupath.lib.scripting.QP.*

import java.util.concurrent.FutureTask
import java.util.zip.GZIPInputStream

import javafx.application.Platform
import javafx.stage.DirectoryChooser
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

// The folder with index.json: write it here, as new File("C:/results/slide/qupath"), or be asked for it.
def folder = null

folder = folder ?: argumentFolder() ?: askForFolder()
if (folder == null) {
    println 'No folder chosen: nothing was imported'
    return
}
def indexFile = new File(folder, 'index.json')
if (!indexFile.isFile())
    throw new FileNotFoundException("${indexFile} is missing: choose the folder qupath that `wsiproc qupath` wrote")
def index = GsonTools.getInstance().fromJson(indexFile.getText('UTF-8'), Map)

def server = getCurrentServer()
if (server == null)
    throw new IllegalStateException('Open the image first')
if (server.getWidth() != (index.slide.width as int) || server.getHeight() != (index.slide.height as int))
    throw new IllegalStateException("The open image has ${server.getWidth()} x ${server.getHeight()} px, " +
        "the cells are of '${index.slide.name}' with ${index.slide.width as int} x ${index.slide.height as int} px")

def hierarchy = getCurrentHierarchy()
def areas = hierarchy.getSelectionModel().getSelectedObjects()
    .findAll { it.isAnnotation() && it.hasROI() && it.getROI().isArea() }
    .collect { it.getROI() }
def files = index.files.findAll { file -> areas.isEmpty() || areas.any { touches(it, file.outlines) } }
println "${files.size()} of ${index.files.size()} files" + (areas.isEmpty() ? '' : " touch the ${areas.size()} selected")

def known = [:]
hierarchy.getDetectionObjects().each { known[it.getID()] = it }
def counts = [:]
long added = 0
long replaced = 0
for (int i = 0; i < files.size(); i++) {
    if (Thread.currentThread().isInterrupted()) {
        println "Stopped after ${i} files; what was imported stays"
        break
    }
    def cells = readCells(new File(folder, files[i].file))
    if (!areas.isEmpty())
        cells = cells.findAll { cell ->
            areas.any { it.contains(cell.getROI().getCentroidX(), cell.getROI().getCentroidY()) }
        }
    def old = cells.collect { known[it.getID()] }.findAll { it != null }
    hierarchy.removeObjects(old, true)
    hierarchy.addObjects(cells)
    added += cells.size() - old.size()
    cells.each { cell ->
        def name = cell.getPathClass()?.toString() ?: 'Unclassified'
        counts[name] = (counts[name] ?: 0) + 1
    }
    replaced += old.size()
    println "${i + 1} of ${files.size()}: ${files[i].file}, ${cells.size()} cells"
}
fireHierarchyUpdate()
println "${added + replaced} cells imported: ${added} new, ${replaced} in place of what was there"
println counts.sort().collect { name, number -> "${name}: ${number}" }.join(', ')
if (index.scoring)
    println index.scoring


/** The folder that `QuPath script --args FOLDER` gives, or null. */
File argumentFolder() {
    def given = null
    try {
        given = args
    } catch (MissingPropertyException e) {
        return null
    }
    return given ? new File(given[0].toString()) : null
}

/** The folder that the user chooses, or null. JavaFX alone, since QuPath's own dialogs moved from version to version. */
File askForFolder() {
    def task = new FutureTask<File>({
        def chooser = new DirectoryChooser()
        chooser.setTitle('Folder qupath of this slide, with index.json')
        return chooser.showDialog(null)
    })
    if (Platform.isFxApplicationThread())
        task.run()
    else
        Platform.runLater(task)
    return task.get()
}

/** Whether a region's bounds share a point with a rectangle of index.json. */
boolean touches(roi, box) {
    return roi.getBoundsX() <= box.x + box.width && box.x <= roi.getBoundsX() + roi.getBoundsWidth() &&
        roi.getBoundsY() <= box.y + box.height && box.y <= roi.getBoundsY() + roi.getBoundsHeight()
}

/** The cells of one file. */
List readCells(File file) {
    new GZIPInputStream(new BufferedInputStream(new FileInputStream(file))).withCloseable { stream ->
        return PathIO.readObjectsFromGeoJSON(stream)
    }
}
